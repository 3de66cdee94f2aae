"""Validation of h_Δ: real images that it is not trained with, and poses that are off by as much as a network's."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, exp_so3, transform
from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.comparison.refiner import FeatureRefiner
from fm_pose_core.objects.edges import NETWORK, about
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.objects.metrics import pose_errors
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.samples import ObjectAssets
from fm_pose_core.objects.validation import KnownObject
from fm_pose_core.rendering.raycaster import raycaster_installed

VISIBLE = 0.1  # instances that show less are left out, as in the BOP benchmark


class ComparisonValidation:
    """known, assets: of the objects. Without embreex there is nothing to draw with, and no figures."""

    def __init__(
        self, instances: Sequence[Instance], known: Sequence[KnownObject], assets: Sequence[ObjectAssets]
    ) -> None:
        self.objects = {x.model.id: (x, a) for x, a in zip(known, assets, strict=True)}
        shown = [x for x in instances if not x.visible_fraction < VISIBLE]
        rng = np.random.default_rng(0)
        self.starts = [(x, self._disturbed(x, rng)) for x in shown] if raycaster_installed() else []

    def _disturbed(self, x: Instance, rng: np.random.Generator) -> Array:
        T, center = x.T_camera_object, self.objects[x.object_id][1].center
        e = rng.multivariate_normal(np.zeros(6), about(T, center, *NETWORK))
        return transform(exp_so3(e[3:]) @ T[:3, :3], T[:3, 3] + e[:3])

    def run(self, network: Fused) -> dict[str, float]:
        """Medians of ADD(-S) relative to the diameter and of the rotation's error, shares with ADD(-S) below 10 % of
        the diameter, and with a 2D projection below 5 px; before, and after each of three looks."""
        rows: list[list[tuple[float, ...]]] = []
        refiners = {
            k: [FeatureRefiner(network.infer, a.mesh, a.corners, a.crop, a.fill, times) for times in range(1, 4)]
            for k, (_, a) in self.objects.items()
        }
        for x, start in self.starts:
            image = read_image(x.image_path)
            look = Look(np.zeros((1, 1, 1, 3), np.uint8), x.camera, np.eye(3), partial(np.asarray, image))
            prior = about(start, self.objects[x.object_id][1].center, *NETWORK)
            solution, row = Solution(start, np.zeros((8, 2)), 0.0, prior, 0.0), [self._judged(x, start)]
            poses = [refiner.refine(look, solution).T_camera_object for refiner in refiners[x.object_id]]
            rows.append([*row, *(self._judged(x, T) for T in poses)])
        if not rows:
            return {}
        result: dict[str, float] = {}
        for times, column in enumerate(np.array(rows).transpose(1, 2, 0)):
            name = f"validation/after_{times}" if times else "validation/before"
            result[f"{name}/add"] = float(np.median(column[0]))
            result[f"{name}/add_10pct"], result[f"{name}/proj_5px"] = float(column[1].mean()), float(column[2].mean())
            result[f"{name}/rotation_deg"] = float(np.median(column[3]))
        return result

    def _judged(self, x: Instance, T: Array) -> tuple[float, ...]:
        model = self.objects[x.object_id][0].model
        errors = pose_errors(T, x.T_camera_object, model_vertices(model), model.diameter, x.camera, model.symmetries)
        rates = float(errors.add_correct), float(errors.projection_correct)
        return errors.add / model.diameter, *rates, float(np.degrees(errors.rotation))
