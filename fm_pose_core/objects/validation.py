"""Validation during training, and calibration after it: real images that the network is not trained with, through the
network and PnP as the estimator does it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, log_so3
from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import Instance, ObjectModel
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.objects.metrics import PoseErrors, pose_errors
from fm_pose_core.objects.pnp import inverse_spd
from fm_pose_core.objects.refine import Solution
from fm_pose_core.objects.solver import Look, ObjectSolver, Sight, see, see_again, solve_best
from fm_pose_core.objects.windows import displaced
from fm_pose_core.types import Window

log = logging.getLogger(__name__)
CHI2_MEDIAN = {1: 0.455, 6: 5.348}  # of the χ² distribution, by its degrees of freedom
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
            rows = [_errors(c, sights) for c, sights in zip(cases, seen(network, cases), strict=True)]
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


def _errors(case: Case, sights: Sequence[Sight]) -> tuple[float, float, float]:
    """Mean corner error of the first look (window pixels), and whether 2D projection and ADD are good enough."""
    corner = float(np.linalg.norm(sights[-1].answer.corners - case.corners, axis=-1).mean(-1).min())
    solution = solve_best(sights)
    if not solution.accepted:
        return corner, 0.0, 0.0
    errors = judged(case, solution)
    return corner, float(errors.projection_correct), float(errors.add_correct)


def distance_scale(network: Fused, objects: Sequence[KnownObject], instances: Sequence[Instance]) -> float:
    """The factor on the deviation of the distances that the network tells, for which it fits their errors; 0 for a
    network that tells none, and without instances. Otherwise as `spread_scale`."""
    cases, squares = cases_of(_as_estimated(objects), instances), []
    for case, own in zip(cases, seen(network, cases), strict=True):
        told = own[0].answer.distance
        if told is not None:
            true = np.linalg.norm(apply(case.instance.T_camera_object, case.known.solver.box_corners.mean(0)[None]))
            squares.append(float(np.square(np.log(told[0] / true) / told[1])))
    return fitting_scale(squares, freedom=1) if squares else 0.0


def distance_error(
    network: Fused, objects: Sequence[KnownObject], instances: Sequence[Instance], scale: float
) -> float:
    """The median of how wrong the poses' distances are (the logarithm's error); infinite without poses. scale: of the
    network's spread."""
    cases = cases_of(_as_estimated(objects), instances)
    errors = []
    for case, own in zip(cases, seen(network, cases), strict=True):
        solution = solve_best(own, scale)
        if solution.accepted:
            center = case.known.solver.box_corners.mean(0)[None]
            found, true = (apply(T, center) for T in (solution.T_camera_object, case.instance.T_camera_object))
            errors.append(abs(float(np.log(np.linalg.norm(found) / np.linalg.norm(true)))))
    return float(np.median(errors)) if errors else float("inf")


def _as_estimated(objects: Sequence[KnownObject]) -> list[KnownObject]:
    """With as many views as the estimator's default."""
    return [KnownObject(x.model, replace(x.solver, views=EstimatorConfig().views)) for x in objects]


def spread_scale(network: Fused, objects: Sequence[KnownObject], instances: Sequence[Instance]) -> float:
    """The factor on the network's spread for which the poses' covariance fits their errors: the median of eᵀC⁻¹e is
    that of a χ² distribution with 6 degrees of freedom; from 0.1 to 30. With as many views as the estimator's default.

    instances: real ones that the network was not trained with. Without any the factor is 1, with a warning: errors on
    training images say nothing.
    """
    cases = cases_of(_as_estimated(objects), instances)
    if not cases:
        log.warning("no validation frames: the covariance is not calibrated (spread_scale 1)")
        return 1.0
    sights = seen(network, cases)

    def excess(scale: float) -> float:
        values = []
        for case, own in zip(cases, sights, strict=True):
            solution = solve_best(own, scale)
            if solution.accepted:
                e = _pose_error(solution.T_camera_object, case.truths)
                information = inverse_spd(solution.covariance)
                values += [e @ information @ e] if information is not None else []
        return abs(float(np.log(np.median(values) / CHI2_MEDIAN[6]))) if values else 0.0

    return float(min(np.geomspace(0.1, 30.0, 60), key=excess))


def solved(
    network: Fused, known: KnownObject, instances: Sequence[Instance], scale: float
) -> list[tuple[Case, Solution]]:
    """The instances of one object for which there is a pose, as the estimator finds it before any refinement."""
    cases = cases_of(_as_estimated([known]), instances)
    found = [solve_best(own, scale) for own in seen(network, cases)]
    return [(case, x) for case, x in zip(cases, found, strict=True) if x.accepted]


def fitting_scale(squares: Sequence[float], freedom: int = 6) -> float:
    """The factor on deviations that are these squared errors apart from the truth, for which their median is that of a
    χ² distribution with so many degrees of freedom; from 0.1 to 30."""
    return float(np.clip(np.sqrt(np.median(squares) / CHI2_MEDIAN[freedom]), 0.1, 30.0)) if squares else 1.0


def judged(case: Case, solution: Solution) -> PoseErrors:
    """The errors of a solution's pose."""
    x, model = case.instance, case.known.model
    T, vertices = solution.T_camera_object, model_vertices(model)
    return pose_errors(T, x.T_camera_object, vertices, model.diameter, x.camera, model.symmetries)


def nearest_truth(T: Array, truths: Sequence[Array]) -> Array:
    """Of true poses that look the same, the one (4, 4) turned least from T."""
    return max(truths, key=lambda truth: float(np.trace(T[:3, :3].T @ truth[:3, :3])))  # 1 + 2 cos of the turn


def _pose_error(T: Array, truths: Sequence[Array]) -> Array:
    """(6,) metres and radians, as the covariance is, to the nearest true pose."""
    truth = nearest_truth(T, truths)
    return np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])
