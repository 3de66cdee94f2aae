"""From a cube around the hand to its joints: crop and decode. The estimator, the validation during training and the
calibration all go this way; what runs the network in between is theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array
from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]
Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class HandSolver:
    """crop: the rule of the window. views: of each cube, whose answers are averaged. mirror: the hands are of the other
    side than those that the network knows."""

    crop: HandCrop
    views: int = 1
    mirror: bool = False

    @cached_property
    def _views(self) -> list[tuple[Array, float]]:
        return self.crop.views(self.views)

    def look(self, depth: Depth, camera: Camera, center: Array) -> Depth:
        """(V, S, S, 1) float32: the V views of the cube about `center` (3,), metres, for the network."""
        cuts = [self.crop.cut(depth, camera, center + shift, turn) for shift, turn in self._views]
        windows = np.stack(cuts)[..., None]
        return windows[:, :, ::-1] if self.mirror else windows

    def decode(self, outputs: Outputs, center: Array) -> tuple[Array, Array]:
        """The network's answers to the views of a cube -> joints (J, 3) metres in the camera's frame, and the standard
        deviation (J,) that it expects of their coordinates."""
        side = np.array([-1.0 if self.mirror else 1.0, 1.0, 1.0])
        answers = zip(outputs["joints"].astype(np.float64) * side, self._views, strict=True)
        joints = [self.crop.turned(answer, -turn) + center + shift for answer, (shift, turn) in answers]
        deviation = np.sqrt(np.square(outputs["spread"].astype(np.float64)).mean((0, 2)))
        return np.mean(joints, 0), deviation

    @staticmethod
    def presence(outputs: Outputs) -> float:
        """The probability that a hand is there, the mean over the views; 1 where the network does not tell."""
        return float(np.clip(outputs["presence"].mean(), 0.0, 1.0)) if "presence" in outputs else 1.0
