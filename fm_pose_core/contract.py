"""What goes into the fused network h∘g∘f and what comes out: the one place that trainer, exporter, bundle and backends
agree on (docs/design.md)."""

from dataclasses import dataclass

import numpy as np

CORNERS = 8
SURFACE_SCALE = 0.05  # metres: about half the size of a hand-held object
DISTANCE_SCALE = 0.4  # of the logarithm of a distance: that of an object which covers from all to half of its window
DETECTED = 2.0  # likewise, in a whole image: of an object which covers a seventh of it


@dataclass(frozen=True)
class Output:
    """A named output: float32 (N, *shape). It is the network's own number, in which ±1 is the border of the window or
    cube, times `scale` plus `shift`."""

    name: str
    shape: tuple[int, ...]
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class Contract:
    """size, channels: of the input `image` (N, size, size, channels), uint8 RGB for 3 channels, two such for 6, and
    float32 depth in [-1, 1] for one. head: the kind of h (learning/heads.py). outputs: its answers, points first."""

    size: int
    channels: int
    head: str
    outputs: tuple[Output, ...]

    @property
    def image_type(self) -> type[np.generic]:
        """Of the input's numbers."""
        return np.float32 if self.channels == 1 else np.uint8

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(size, size, channels)."""
        return self.size, self.size, self.channels


def _with_spread(name: str, shape: tuple[int, ...], scale: float, shift: float) -> tuple[Output, Output]:
    """Points, and the standard deviation that the network expects of each of their coordinates, in the same unit."""
    return Output(name, shape, scale, shift), Output("spread", shape, scale)


def object_contract(size: int = 128, objects: int = 1, cells: int = 0, distance: bool = False) -> Contract:
    """Corners (objects, 8, 2) of the bounding box of each object (section 3.1), pixels of the window. With `cells` also
    the object's surface in each of so many square cells of the window, row by row: points (objects, cells, 3) of its
    frame, metres, behind the cells' centres; `doubt` (objects, cells), the standard deviation to expect of each of
    their coordinates, metres; and `presence` (objects, cells), the probability that the cell shows the object. With
    `distance` also the logarithm of the distance (objects,) of the box's centre, where 0 is that at which the box's
    diagonal would cover the whole window (crop.Crop.unit_distance), and its standard deviation."""
    corners = _with_spread("corners", (objects, CORNERS, 2), size / 2, (size - 1) / 2)
    outputs = list(corners)
    if cells > 0:
        outputs += [
            Output("points", (objects, cells, 3), SURFACE_SCALE),
            Output("doubt", (objects, cells), SURFACE_SCALE),
        ]
        outputs.append(Output("presence", (objects, cells)))
    if distance:
        outputs.append(Output("distance", (objects,), DISTANCE_SCALE, DISTANCE_SCALE))
        outputs.append(Output("distance_spread", (objects,), DISTANCE_SCALE))
    return Contract(size, 3, "surface" if cells else "corners", tuple(outputs))


def detector_contract(size: int = 320, objects: int = 1, cells: int = 1600, depth: bool = False) -> Contract:
    """Where objects are in a whole image, in each of so many square cells of it, row by row. centre (objects, cells,
    2): the pixels of the centre of each object, if it is near the cell. heat (objects, cells): the probability that it
    is in the cell. With `depth` also the logarithm of the centre's depth along the optical axis (objects, cells), where
    0 is that at which the diagonal of the object's box would cover the whole image (crop.Crop.unit_distance)."""
    outputs = [Output("centre", (objects, cells, 2), size / 2, (size - 1) / 2), Output("heat", (objects, cells))]
    outputs += [Output("depth", (objects, cells), DISTANCE_SCALE, DETECTED)] if depth else []
    return Contract(size, 3, "centres", tuple(outputs))


def update_contract(size: int = 128) -> Contract:
    """From a window and the same with a rendering drawn over it to the update (6,) of the rendering's pose and its
    standard deviation (objects/comparison/update.py)."""
    return Contract(size, 6, "update", (Output("update", (6,)), Output("spread", (6,))))


def hand_contract(joints: int, size: int = 128, cube: float = 0.3, presence: bool = False) -> Contract:
    """Joints (joints, 3) relative to the cube's centre, metres (section 4.2); with `presence` also the probability (1,)
    that a hand is in the window."""
    outputs = _with_spread("joints", (joints, 3), cube / 2, 0.0)
    return Contract(size, 1, "joints", (*outputs, Output("presence", (1,))) if presence else outputs)
