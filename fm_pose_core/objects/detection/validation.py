"""Validation of the detector: real images that it is not trained with."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.files import read_image
from fm_pose_core.geometry import apply
from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.detection.detector import Detector
from fm_pose_core.objects.samples import ObjectAssets

NEAR = 10.0  # image pixels: what is so near to the centre is good enough for a window
VISIBLE = 0.1  # instances that show less are left out, as in the BOP benchmark


class DetectorValidation:
    """assets: of the known objects by id, in the order of the network's outputs, and their names likewise."""

    def __init__(
        self, instances: Sequence[Instance], assets: dict[int, ObjectAssets], names: Sequence[str], size: int
    ) -> None:
        self.names, self.size, self.assets = names, size, assets
        self.images: dict[Path, list[Instance]] = defaultdict(list)
        for x in instances:
            self.images[x.image_path].append(x)

    def run(self, network: Fused) -> dict[str, float]:
        """Of what is found from the default of `min_detection` on. found: share of the visible objects with a window
        within NEAR; false: windows of an image on no such object, in the mean; off_px: median distance of those that
        are found from the centre; off_depth: median error of their distance, as a share of it, if the network tells
        it."""
        boxes = {name: x.corners for name, x in zip(self.names, self.assets.values(), strict=True)}
        detector = Detector(boxes, self.size, network.infer)
        distances: list[float] = []
        depths: list[float] = []
        wanted = wrong = 0
        for path, group in self.images.items():
            left = [(self.names[self.assets[x.object_id].index], _centre(x, self.assets)) for x in group]
            shown = [not x.visible_fraction < VISIBLE for x in group]
            wanted += sum(shown)
            for found in detector.detect(read_image(path), group[0].camera, EstimatorConfig().min_detection):
                at = np.array([found.window.u, found.window.v])
                away = [float(np.linalg.norm(at - c)) if found.window.object == name else np.inf for name, c in left]
                best = int(np.argmin(away))
                if away[best] > NEAR:
                    wrong += 1
                elif shown[best]:
                    distances.append(float(away[best]))
                    depths += [found.window.distance / _distance(group[best], self.assets) - 1.0]
                    left[best] = ("", left[best][1])
        return {
            "validation/found": len(distances) / max(1, wanted),
            "validation/false": wrong / max(1, len(self.images)),
            **({"validation/off_px": float(np.median(distances))} if distances else {}),
            **({"validation/off_depth": float(np.median(np.abs(depths)))} if max(depths, default=-1.0) > -1.0 else {}),
        }


def _centre(x: Instance, assets: dict[int, ObjectAssets]) -> np.ndarray:
    return np.asarray(x.camera.pixels(apply(x.T_camera_object, assets[x.object_id].center[None]))[0])


def _distance(x: Instance, assets: dict[int, ObjectAssets]) -> float:
    return float(np.linalg.norm(apply(x.T_camera_object, assets[x.object_id].center[None])))
