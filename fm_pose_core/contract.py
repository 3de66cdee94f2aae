"""What goes into the fused network h∘g∘f and what comes out, for objects and for hands: the one place that trainer,
exporter, bundle and backends agree on (docs/design.md)."""

from dataclasses import dataclass

import numpy as np

CORNERS = 8
OBJECT_POSE, HAND_POSE = "object_pose", "hand_pose"


@dataclass(frozen=True)
class Contract:
    """image: (N, size, size, channels), uint8 RGB for objects and float32 depth in [-1, 1] for hands. output and
    spread: (N, points, dims) float32; the network's own coordinates, in which ±1 is the border of the window or cube,
    times `scale` plus `shift`: corners in window pixels, joints in metres from the cube's centre. spread: the expected
    standard deviation."""

    task: str
    size: int
    channels: int
    points: int
    dims: int
    scale: float
    shift: float

    @property
    def output(self) -> str:
        """Name of the network's first output."""
        return "corners" if self.task == OBJECT_POSE else "joints"

    @property
    def image_type(self) -> type[np.generic]:
        return np.uint8 if self.channels == 3 else np.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.channels


def object_contract(size: int = 128) -> Contract:
    """8 corners of the bounding box in pixels of the window (section 3.1)."""
    return Contract(OBJECT_POSE, size, 3, CORNERS, 2, size / 2, (size - 1) / 2)


def hand_contract(joints: int, size: int = 128, cube: float = 0.3) -> Contract:
    """Joints relative to the cube's centre, metres (section 4.2)."""
    return Contract(HAND_POSE, size, 1, joints, 3, cube / 2, 0.0)
