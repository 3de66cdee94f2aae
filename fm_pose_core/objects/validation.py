"""Validation during training: real images that the network is not trained with, through the network and PnP as the
estimator does it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply
from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import Instance, ObjectModel
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.objects.metrics import PoseErrors, pose_errors
from fm_pose_core.objects.refine import Solution
from fm_pose_core.objects.solver import Look, ObjectSolver, Sight, see, see_again, solve_best
from fm_pose_core.objects.windows import displaced
from fm_pose_core.types import Window

DISPLACEMENT = 10.0  # pixels: of the displaced centres
VISIBLE = 0.1  # instances that show less are left out, as in the BOP benchmark


@dataclass(frozen=True)
class KnownObject:
    """model: of the dataset. solver: from its windows to its pose."""

    model: ObjectModel
    solver: ObjectSolver


@dataclass(frozen=True)
class Case:
    """An instance, what the network sees of it, and what it may answer: the true poses T_camera_object (4, 4) under the
    identity and each symmetry, and the corners (S, 8, 2) of each, window pixels."""

    instance: Instance
    known: KnownObject
    look: Look
    truths: tuple[Array, ...]
    corners: Array


def cases_of(objects: Sequence[KnownObject], instances: Sequence[Instance], displacement: float = 0.0) -> list[Case]:
    """The visible instances with windows at the true centre of the box, or displaced by up to so many pixels."""
    known = {x.model.id: x for x in objects}
    chosen = [x for x in instances if not x.visible_fraction < VISIBLE]
    centers = [known[x.object_id].solver.box_corners.mean(0)[None] for x in chosen]
    pixels = [x.camera.pixels(apply(x.T_camera_object, c))[0] for x, c in zip(chosen, centers, strict=True)]
    windows = displaced(chosen, [Window(*uv) for uv in pixels], displacement, seed=0)
    cases = []
    for x, window in zip(chosen, windows, strict=True):
        assert window is not None
        solver = known[x.object_id].solver
        look = solver.look(read_image(x.image_path), x.camera, window, again=_reader(x))
        truths = (x.T_camera_object, *(x.T_camera_object @ S for S in known[x.object_id].model.symmetries))
        corners = [solver.crop.to_window(apply(T, solver.box_corners), look.R_camera_window) for T in truths]
        cases.append(Case(x, known[x.object_id], look, truths, np.stack(corners)))
    return cases


def _reader(x: Instance) -> Callable[[], np.ndarray]:
    return lambda: read_image(x.image_path)


def seen(network: Fused, cases: Sequence[Case]) -> list[tuple[Sight, ...]]:
    """What the network says of each case, see solver.see_again; the first look comes last."""
    sights = see(network.infer, [(c.known.solver, c.look) for c in cases])
    return see_again(network.infer, sights)


class Validation:
    """Validation instances with the true centre and with displaced ones; and, for comparison, of each object's
    training instances every second."""

    def __init__(
        self, objects: Sequence[KnownObject], validation: Sequence[Instance], training: Sequence[Instance]
    ) -> None:
        own = ([x for x in training if x.object_id == known.model.id] for known in objects)
        self.sets = {
            "validation": cases_of(objects, validation),
            "validation_displaced": cases_of(objects, validation, DISPLACEMENT),
            "training": cases_of(objects, [x for instances in own for x in instances[::2]]),
        }
        self.several = len(objects) > 1

    def run(self, network: Fused) -> dict[str, float]:
        """Per set (and per object, where there are several): median corner error (window pixels), 2D projection below
        5 px and ADD(-S) below 10 % (shares of instances)."""
        result: dict[str, float] = {}
        for name, cases in self.sets.items():
            if not cases:
                continue
            sights = seen(network, cases)
            solved = zip(cases, sights, solve_best(sights), strict=True)
            rows = [_errors(case, own[-1], solution) for case, own, solution in solved]
            groups = {name: rows}
            if self.several:
                of_object = defaultdict(list)
                for c, row in zip(cases, rows, strict=True):
                    of_object[f"{name}/{c.known.model.name}"].append(row)
                groups |= of_object
            for group, values in groups.items():
                corner, projection, add = np.array(values).T
                result[f"{group}/corner_px"] = float(np.median(corner))
                result[f"{group}/proj_5px"] = float(projection.mean())
                result[f"{group}/add_10pct"] = float(add.mean())
        return result


def _errors(case: Case, first: Sight, solution: Solution) -> tuple[float, float, float]:
    """Mean corner error of the first look (window pixels), and whether 2D projection and ADD are good enough."""
    corner = float(np.linalg.norm(first.answer.corners - case.corners, axis=-1).mean(-1).min())
    if not solution.accepted:
        return corner, 0.0, 0.0
    errors = judged(case, solution)
    return corner, float(errors.projection_correct), float(errors.add_correct)


def judged(case: Case, solution: Solution) -> PoseErrors:
    """The errors of a solution's pose."""
    x, model = case.instance, case.known.model
    T, vertices = solution.T_camera_object, model_vertices(model)
    return pose_errors(T, x.T_camera_object, vertices, model.diameter, x.camera, model.symmetries)


def nearest_truth(T: Array, truths: Sequence[Array]) -> Array:
    """Of true poses that look the same, the one (4, 4) turned least from T."""
    return max(truths, key=lambda truth: float(np.trace(T[:3, :3].T @ truth[:3, :3])))  # 1 + 2 cos of the turn
