"""Brings images and 2D detections of the same stamp together. Knows no rclpy."""

from collections import deque
from typing import Any

from fm_pose_ros.conversions import seconds


class Matcher:
    """Holds the last `size` images until the detections made from one of them arrive.

    tolerance: largest difference of stamps in seconds. unmatched: images that were let go without detections. strays:
    detections in a row that had no image; offset: by how much the last of them missed the nearest image, seconds.
    """

    def __init__(self, size: int, tolerance: float) -> None:
        self.tolerance = tolerance
        self.unmatched = self.strays = 0
        self.offset = float("nan")
        self._images: deque[Any] = deque()
        self._size = size
        self._detections: Any = None

    def add_image(self, image: Any) -> tuple[Any, Any] | None:
        """An image arrived. Returns (image, detections) if its detections were here already."""
        self._images.append(image)
        if len(self._images) > self._size:
            self._images.popleft()
            self.unmatched += 1
        return self._match()

    def add_detections(self, detections: Any) -> tuple[Any, Any] | None:
        """Detections arrived. Returns (image, detections) if they belong to an image that is held; newer images
        stay."""
        if self._detections is not None:
            self.strays += 1
        self._detections = detections
        return self._match()

    def _match(self) -> tuple[Any, Any] | None:
        if self._detections is None or not self._images:
            return None
        stamp = seconds(self._detections.header.stamp)
        offsets = [seconds(image.header.stamp) - stamp for image in self._images]
        nearest = min(range(len(offsets)), key=lambda i: abs(offsets[i]))
        self.offset = offsets[nearest]
        if abs(self.offset) > self.tolerance:
            return None
        pair = (self._images[nearest], self._detections)
        for _ in range(nearest):
            self._images.popleft()
        self._images.popleft()
        self.unmatched += nearest
        self._detections = None
        self.strays = 0
        return pair
