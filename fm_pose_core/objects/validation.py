"""Validation during training: the real validation images through the network as it stands, and PnP."""

import numpy as np
import torch

from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, log_so3, transform
from fm_pose_core.learning.networks import FeatureMapping, Fused
from fm_pose_core.objects.bop import Instance, ObjectModel
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.objects.metrics import pose_errors
from fm_pose_core.objects.pnp import solve_pnp
from fm_pose_core.objects.windows import displaced
from fm_pose_core.types import Window

CHUNK = 64  # images through the network at a time
CHI2_MEDIAN = 5.348  # of the χ² distribution with 6 degrees of freedom


class Validation:
    """Crops of the validation instances (visible by 10 % or more), with the true centre and with displaced ones."""

    def __init__(
        self,
        model: ObjectModel,
        crop: Crop,
        corners: Array,
        validation: list[Instance],
        training: list[Instance],
        device: torch.device,
        displacement: float = 10.0,
    ) -> None:
        """corners (8, 3): of the model's box, metres. training: of these every second one is scored too, for
        comparison."""
        self.device, self.model, self.crop, self.corners = device, model, crop, corners
        self.vertices = model_vertices(model)
        self.sets = {
            "validation": self._crops(validation, 0.0),
            "validation_displaced": self._crops(validation, displacement),
            "training": self._crops(training[::2], 0.0),
        }

    def _crops(
        self, instances: list[Instance], displacement: float
    ) -> list[tuple[Instance, np.ndarray, np.ndarray, np.ndarray]]:
        instances = [x for x in instances if not x.visible_fraction < 0.1]
        center = self.corners.mean(0)[None]
        windows = [Window(*x.camera.pixels(apply(x.T_camera_object, center))[0]) for x in instances]
        result = []
        for x, window in zip(instances, displaced(instances, windows, displacement, seed=0), strict=True):
            assert window is not None
            image, R = self.crop.cut(read_image(x.image_path), x.camera, window)
            truth = self.crop.to_window(apply(x.T_camera_object, self.corners), R)
            result.append((x, image, R, truth))
        return result

    @torch.no_grad()
    def run(self, model: FeatureMapping, use_mapping: bool = True) -> dict[str, float]:
        """Per set: median corner error (window pixels), 2D projection below 5 px and ADD(-S) below 10 % (shares of
        instances)."""
        fused = Fused(model)
        if not use_mapping:
            fused.g = torch.nn.Identity()
        result: dict[str, float] = {}
        for name, crops in self.sets.items():
            if not crops:
                continue
            images = torch.from_numpy(np.stack([c[1] for c in crops]))
            parts = [fused(part.to(self.device)) for part in images.split(CHUNK)]
            predicted, spread = (torch.cat(column).double().cpu().numpy() for column in zip(*parts, strict=True))
            good_2d, good_add = [], []
            for (x, _, R, _), corners, deviation in zip(crops, predicted, spread, strict=True):
                good_2d.append(0.0)
                good_add.append(0.0)
                solution = solve_pnp(self.corners, corners, self.crop.K, deviation)
                if solution.accepted:
                    T = transform(R, np.zeros(3)) @ solution.T_camera_object
                    errors = pose_errors(
                        T, x.T_camera_object, self.vertices, self.model.diameter, x.camera, self.model.symmetries
                    )
                    good_2d[-1] = float(errors.projection_correct)
                    good_add[-1] = float(errors.add_correct)
            truth = np.stack([c[3] for c in crops])
            result[f"{name}/corner_px"] = float(np.median(np.linalg.norm(predicted - truth, axis=-1).mean(-1)))
            result[f"{name}/proj_5px"] = float(np.mean(good_2d))
            result[f"{name}/add_10pct"] = float(np.mean(good_add))
        return result


def spread_scale(network: Fused, crop: Crop, box: Array, instances: list[Instance]) -> float:
    """The factor on the network's spread for which the poses' covariance fits their errors: the median of eᵀC⁻¹e is
    that of a χ² distribution with 6 degrees of freedom. box (8, 3): the model's corners, metres."""
    images, truths = [], []
    for x in instances:
        if not x.visible_fraction < 0.1:
            window = Window(*x.camera.pixels(apply(x.T_camera_object, box.mean(0)[None]))[0])
            image, R_camera_window = crop.cut(read_image(x.image_path), x.camera, window)
            images.append(image)
            truths.append(transform(R_camera_window.T, np.zeros(3)) @ x.T_camera_object)
    if not images:
        return 1.0
    with torch.inference_mode():
        parts = [network(torch.from_numpy(np.stack(images[i : i + 64]))) for i in range(0, len(images), 64)]
    corners, spread = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))

    def excess(scale: float) -> float:
        values = []
        for c, s, truth in zip(corners, spread, truths, strict=True):
            solution = solve_pnp(box, c, crop.K, s, spread_scale=scale)
            if solution.accepted:
                T = solution.T_camera_object
                e = np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])
                values.append(e @ np.linalg.solve(solution.covariance, e))
        return abs(float(np.log(np.median(values) / CHI2_MEDIAN))) if values else 0.0

    return float(min(np.geomspace(0.1, 30.0, 60), key=excess))
