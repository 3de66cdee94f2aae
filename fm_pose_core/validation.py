"""Validation during training: the real validation images through the network as it stands, and PnP."""

from collections.abc import Callable

import numpy as np
import torch

from fm_pose_core.data.bop import Instance, read_image
from fm_pose_core.data.renderer import load_mesh
from fm_pose_core.evaluate.metrics import pose_errors
from fm_pose_core.experiment import Data
from fm_pose_core.geometry import apply, transform
from fm_pose_core.networks import FeatureMapping, Fused
from fm_pose_core.pnp import solve_pnp
from fm_pose_core.types import Window


class Validation:
    """Crops of the validation instances (visible by 10 % or more), with the true centre and with displaced ones."""

    def __init__(self, data: Data, device: torch.device, displacement: float = 10.0) -> None:
        self.device, self.model, self.crop, self.corners = device, data.model, data.source.crop, data.source.corners
        self.vertices = load_mesh(data.model.mesh_path, 1e-3).vertices
        self.vertices = self.vertices[:: max(1, len(self.vertices) // 1000)]
        rng = np.random.default_rng(0)
        self.sets = {
            "validation": self._crops(data.validation, lambda: np.zeros(2)),
            "validation_displaced": self._crops(data.validation, lambda: _in_disc(rng, displacement)),
            "training": self._crops(data.training[::2], lambda: np.zeros(2)),
        }

    def _crops(
        self, instances: list[Instance], offset: Callable[[], np.ndarray]
    ) -> list[tuple[Instance, np.ndarray, np.ndarray, np.ndarray]]:
        result = []
        for x in instances:
            if np.isnan(x.visible_fraction) or x.visible_fraction >= 0.1:
                uv = x.camera.pixels(apply(x.T_camera_object, self.corners.mean(0)[None]))[0] + offset()
                image, R = self.crop.cut(read_image(x.image_path), x.camera, Window(*uv))
                truth = self.crop.to_window(apply(x.T_camera_object, self.corners), R)
                result.append((x, image, R, truth))
        return result

    @torch.no_grad()
    def run(self, model: FeatureMapping, use_mapping: bool = True) -> dict[str, float]:
        """Per set: median corner error (window pixels), 2D projection below 5 px and ADD(-S) below 10 % (shares of instances)."""
        fused = Fused(model)
        if not use_mapping:
            fused.g = torch.nn.Identity()
        result: dict[str, float] = {}
        for name, crops in self.sets.items():
            if not crops:
                continue
            images = torch.from_numpy(np.stack([c[1] for c in crops])).to(self.device)
            predicted, spread = (x.double().cpu().numpy() for x in fused(images))
            good_2d, good_add = [], []
            for (x, _, R, _), corners, deviation in zip(crops, predicted, spread, strict=True):
                good_2d.append(0.0)
                good_add.append(0.0)
                solution = solve_pnp(self.corners, corners, self.crop.K, deviation)
                if solution.accepted:
                    T = transform(R, np.zeros(3)) @ solution.T_camera_object
                    errors = pose_errors(T, x.T_camera_object, self.vertices, self.model.diameter, x.camera, self.model.symmetries)
                    good_2d[-1] = float(errors.projection_correct)
                    good_add[-1] = float(errors.add_correct)
            truth = np.stack([c[3] for c in crops])
            result[f"{name}/corner_px"] = float(np.median(np.linalg.norm(predicted - truth, axis=-1).mean(-1)))
            result[f"{name}/proj_5px"] = float(np.mean(good_2d))
            result[f"{name}/add_10pct"] = float(np.mean(good_add))
        return result


def _in_disc(rng: np.random.Generator, radius: float) -> np.ndarray:
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return radius * np.sqrt(rng.uniform()) * np.array([np.cos(angle), np.sin(angle)])
