"""From the topic of a 2D detector to images with their detections."""

from collections.abc import Callable
from typing import Any, Protocol

from vision_msgs.msg import Detection2DArray

from fm_pose_ros.diagnostics import Diagnostics
from fm_pose_ros.lifecycle import PoseNode
from fm_pose_ros.matching import Matcher

STRAYS = 3  # so many detections in a row without their image are worth a warning


class Settings(Protocol):
    """Images that wait, at most; and how far stamps may be apart, seconds."""

    @property
    def detection_queue(self) -> int: ...

    @property
    def detection_tolerance(self) -> float: ...


class DetectionInput:
    """Subscribes a node to 2D detections while it is active, and brings them together with the images they were made
    from.

    settings(): as they are now. run(image, detections): takes both.
    """

    def __init__(
        self,
        node: PoseNode,
        diagnostics: Diagnostics,
        settings: Callable[[], Settings],
        run: Callable[[Any, Detection2DArray], None],
    ) -> None:
        self.matcher = Matcher(1, 0.0)
        self._node, self._diagnostics, self._settings, self._run = node, diagnostics, settings, run

    def open(self, on_detections: Callable[[Detection2DArray], None] | None = None) -> None:
        """Subscribe, until the node is no longer active. on_detections: gets what comes, in place of `add`."""
        self._take = on_detections or self.add
        subscription = self._node.subscription(Detection2DArray, "detections_2d", self._on_detections)
        self._diagnostics.wait_for(subscription)

    def reset(self) -> None:
        """Forget what waits."""
        self.matcher = Matcher(self._settings().detection_queue, self._settings().detection_tolerance)

    def add_image(self, msg: Any) -> None:
        """Keep it until its detections come."""
        before = self.matcher.unmatched
        pair = self.matcher.add_image(msg)
        self._hand_on(pair, before)

    def add(self, msg: Detection2DArray) -> None:
        """Detections of an image that is here or comes."""
        before, self.matcher.tolerance = self.matcher.unmatched, self._settings().detection_tolerance
        pair = self.matcher.add_detections(msg)
        if pair is None and self.matcher.strays >= STRAYS:
            self._diagnostics.warn(
                "detections_2d.header.stamp",
                f"detections_2d.header.stamp: expected the stamp of an image within {self.matcher.tolerance} s, got "
                f"the nearest {self.matcher.offset:+.3f} s away; do both use one clock, and is detection_queue long "
                "enough?",
            )
        self._hand_on(pair, before)

    def _on_detections(self, msg: Detection2DArray) -> None:
        self._diagnostics.statistics.detections += 1
        self._take(msg)

    def _hand_on(self, pair: tuple[Any, Any] | None, before: int) -> None:
        self._diagnostics.statistics.unmatched += self.matcher.unmatched - before
        if pair is not None:
            self._run(*pair)
