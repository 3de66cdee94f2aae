"""Where to look for objects in an image: locators give windows to the estimator.

A fixed region, 2D detections, the bundle's own detector and the last poses are locators. The paper takes the window
from a given bounding box (section 4.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array, apply
from fm_pose_core.objects.detection.detector import Found
from fm_pose_core.types import Camera, Detection, Window

Image = NDArray[np.uint8]


class Locator(Protocol):
    """Says where objects may be."""

    def locate(self, image: Image, camera: Camera) -> list[Window]:
        """Windows in an image (H, W, 3) uint8 RGB that `camera` took, the likeliest first; each names the object that
        is expected in it."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always the same place. object: its name. u, v: centre, pixels; -1: the middle of the image."""

    object: str
    u: float = -1.0
    v: float = -1.0

    def locate(self, image: Image, camera: Camera) -> list[Window]:
        u = (camera.width - 1) / 2 if self.u < 0 else self.u
        v = (camera.height - 1) / 2 if self.v < 0 else self.v
        return [Window(u, v, self.object)]


@dataclass(frozen=True)
class Detected:
    """The centres of 2D detections of one class, best first.

    object: name of the object that is expected there. detections: of this image. wanted: class of the detections,
    ANY_CLASS for all. min_score: below it they are left out. count: how many are taken, at most.
    """

    object: str
    detections: Sequence[Detection]
    wanted: str
    min_score: float = 0.0
    count: int = 1

    def locate(self, image: Image, camera: Camera) -> list[Window]:
        return [Window(detection.u, detection.v, self.object) for detection in self.taken()]

    def taken(self) -> list[Detection]:
        """Those of the wanted class, best first."""
        scored = [(d.score(self.wanted), d) for d in self.detections]
        wanted = [(s, d) for s, d in scored if s is not None and s >= self.min_score]
        wanted.sort(key=lambda pair: -pair[0])
        return [d for _, d in wanted[: self.count]]


@dataclass(frozen=True)
class Own:
    """What the bundle's own detector finds, best first. object: its name. find: all that it finds in this image; it is
    asked only when it is needed. count: how many are taken, at most."""

    object: str
    find: Callable[[], Sequence[Found]]
    count: int = 1

    def locate(self, image: Image, camera: Camera) -> list[Window]:
        return [x.window for x in self.find() if x.window.object == self.object][: self.count]


@dataclass(frozen=True)
class Tracked:
    """Tracking: around the last poses of an object.

    object: its name. center: (3,) centre of its box, metres, object frame. poses: T_camera_object (4, 4), metres.
    """

    object: str
    center: Array
    poses: Sequence[Array]

    def locate(self, image: Image, camera: Camera) -> list[Window]:
        return [window for window in self.around(camera) if window is not None]

    def around(self, camera: Camera) -> list[Window | None]:
        """For each pose its window. None: the object is lost, because its centre is behind the camera or has left the
        image."""
        return [self._window(T, camera) for T in self.poses]

    def _window(self, T_camera_object: Array, camera: Camera) -> Window | None:
        center = apply(T_camera_object, self.center[None])
        if center[0, 2] <= 0:
            return None
        u, v = (float(x) for x in camera.pixels(center)[0])
        inside = -0.5 <= u <= camera.width - 0.5 and -0.5 <= v <= camera.height - 0.5
        return Window(u, v, self.object, float(np.linalg.norm(center))) if inside else None


@dataclass(frozen=True)
class InTurn:
    """What `first` finds; and while that is less than `enough`, what `then` finds too."""

    first: Locator
    then: Locator
    enough: int

    def locate(self, image: Image, camera: Camera) -> list[Window]:
        windows = self.first.locate(image, camera)
        return windows if len(windows) >= self.enough else windows + self.then.locate(image, camera)
