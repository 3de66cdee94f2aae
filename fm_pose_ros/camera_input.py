"""From the topics of a camera to frames: images with their intrinsics. Whatever is wrong costs that frame only.

The image subscription keeps one message (depth 1), so while a frame is being processed the middleware overwrites the
waiting one and the newest wins; overtaken frames are never deserialised, and their number follows from the publisher's
message numbers.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from fm_pose_core.errors import EngineError, InputError, expect
from fm_pose_core.types import Camera
from fm_pose_ros.conversions import (
    camera_from_info,
    compressed_depth_to_metres,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    seconds,
)
from fm_pose_ros.diagnostics import Diagnostics
from fm_pose_ros.lifecycle import PoseNode
from fm_pose_ros.node_config import NodeConfig

JUMP = 0.1  # seconds: stamps that go back by more than this mean another run of the bag or simulation, not jitter
PAUSE = 10.0  # seconds between two stamps after which things may be anywhere
NO_FRAME = "image.header.frame_id: expected the camera's optical frame, got none; no TF is sent"

ImageMessage: TypeAlias = Image | CompressedImage


@dataclass(frozen=True)
class Frame:
    """One camera image. header: for everything that is published about it. stamp: the header's, in seconds.
    image: (H, W, 3) uint8 RGB, or (H, W) float32 depth in metres."""

    header: Header
    stamp: float
    image: NDArray[Any]
    camera: Camera


@dataclass(frozen=True)
class ImageTopic:
    """name: of the topic. suffix: what the compressed one has behind it. read, read_compressed: from a message to the
    image of a Frame; they raise InputError for one that cannot be read."""

    name: str
    suffix: str
    read: Callable[[Image], NDArray[Any]]
    read_compressed: Callable[[CompressedImage, Camera], NDArray[Any]]


COLOUR = ImageTopic("image_raw", "/compressed", image_to_rgb, compressed_to_rgb)
DEPTH = ImageTopic("depth/image_rect_raw", "/compressedDepth", depth_to_metres, compressed_depth_to_metres)


class CameraInput:
    """Subscribes a node to an image topic and its camera_info while the node is active.

    take(msg) gets each new image; it calls `run(msg, context)` at once, or holds the image back until more is known.
    process(frame, context) works on it and returns whether it found anything; an InputError becomes a warning.
    reset() forgets what was learned from earlier frames.
    """

    def __init__(
        self,
        node: PoseNode,
        diagnostics: Diagnostics,
        topic: ImageTopic,
        *,
        take: Callable[[ImageMessage], None],
        process: Callable[[Frame, Any], bool],
        reset: Callable[[], None],
    ) -> None:
        self._node, self._diagnostics, self._topic = node, diagnostics, topic
        self._take, self._process, self._reset = take, process, reset
        self._camera: Camera | InputError | None = None
        self._told: set[str] = set()  # what was said about camera_info, once
        self._camera_frame = ""
        self._stamp = 0.0
        self._frame_id: str | None = None  # of the last image
        self._alone = True  # one publisher at the last image

    def open(self, depth: int = 1) -> None:
        """Start anew and subscribe, until the node is no longer active. depth: of the image queue; 1: the newest frame
        wins."""
        self._camera, self._stamp, self._frame_id = None, 0.0, None
        self._told.clear()
        self._reset()
        # Before the images: where both wait, the executor takes them in this order.
        self._infos = self._node.subscription(CameraInfo, "camera_info", self._on_camera_info, latched=True)
        kind, topic = Image, self._topic.name
        if self._node.parameters.get(NodeConfig).image_transport == "compressed":
            # Follows a remapping of the topic.
            kind, topic = CompressedImage, self._node.resolve_topic_name(topic) + self._topic.suffix
        # rclpy of Humble hands on nothing but the message.
        take = self._on_image if hasattr(Subscription, "CallbackType") else lambda msg: self._on_image(msg, {})
        self._images = self._node.subscription(kind, topic, take, depth)
        self._diagnostics.begin(self._images, self._infos)

    def run(self, msg: ImageMessage, context: Any = None) -> None:
        """Convert, process, and account for it."""
        begin, own = time.monotonic(), time.thread_time()
        try:
            self._run(msg, context, begin)
        finally:
            statistics, now = self._diagnostics.statistics, time.monotonic()
            statistics.waiting_since = now
            statistics.waited += now - begin - (time.thread_time() - own)

    def _run(self, msg: ImageMessage, context: Any, begin: float) -> None:
        try:
            frame = self._frame(msg)
            if frame is None:
                return
            found = self._process(frame, context)
        except InputError as error:
            self._diagnostics.fault_of(error)
            return
        except EngineError as error:
            self._diagnostics.statistics.failed("engine")
            self._node.engine_failed(error)
            return
        except Exception as error:
            text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            self._diagnostics.fault("internal error", text)
            return
        now = time.monotonic()
        age = 1e-9 * self._node.get_clock().now().nanoseconds - frame.stamp
        self._diagnostics.statistics.done(now, now - begin, age, found)

    def _frame(self, msg: ImageMessage) -> Frame | None:
        camera = self._camera
        if camera is None:  # The diagnostics warn: at the start an image often comes before its camera_info.
            self._diagnostics.statistics.failed("camera_info missing")
            return None
        if isinstance(camera, InputError):
            raise camera
        if isinstance(msg, Image):
            expected = f"{camera.width}x{camera.height} as camera_info says (ROI and binning applied)"
            fits = (msg.width, msg.height) == (camera.width, camera.height)
            expect(fits, "image size", expected, f"{msg.width}x{msg.height}")
        image = self._topic.read(msg) if isinstance(msg, Image) else self._topic.read_compressed(msg, camera)
        if msg.header.frame_id and self._camera_frame not in ("", msg.header.frame_id):
            got = f"{self._camera_frame}; is it of another camera?"
            self._tell_once(f"camera_info.header.frame_id: expected the image's, {msg.header.frame_id}, got {got}")
        header = Header(stamp=msg.header.stamp, frame_id=msg.header.frame_id or self._camera_frame)
        return Frame(header, seconds(msg.header.stamp), image, camera)

    def _on_image(self, msg: ImageMessage, info: Any) -> None:
        # Each publisher counts its own messages, and one that has left may have left a message.
        before, self._alone = self._alone, self._images.get_publisher_count() == 1
        number = info.get("publication_sequence_number") if before and self._alone else None
        self._diagnostics.statistics.arrived(time.monotonic(), number)
        stamp, frame_id = seconds(msg.header.stamp), msg.header.frame_id
        on = stamp - self._stamp
        again, long_ago = on < -JUMP, on > PAUSE and self._stamp > 0.0
        other = self._frame_id is not None and frame_id != self._frame_id
        if again or long_ago or other:
            self._reset()  # where things were says nothing of where they are
        self._frame_id = frame_id
        if on >= 0.0 or again:
            self._stamp = stamp
        if on < 0.0:
            got = f"{-on:.3f} s back; that frame is skipped"
            text = f"image.header.stamp: expected stamps that go forward, got {got}"
            self._diagnostics.fault("image.header.stamp", text)
            return
        self._take(msg)

    def _on_camera_info(self, msg: CameraInfo) -> None:
        self._camera_frame = msg.header.frame_id
        rectified = self._node.parameters.get(NodeConfig).rectified
        try:
            self._camera = camera_from_info(msg, rectified)
        except InputError as error:
            self._camera = error
        if rectified and (msg.p[3] or msg.p[7]):
            got = f"{msg.p[3]:g}, {msg.p[7]:g}, as the right camera of a stereo pair has; poses are in that one's frame"
            self._tell_once(f"camera_info.p: expected a fourth column of zeros, got {got}, whatever frame_id says")
        self._diagnostics.camera = _described(self._camera)

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._node.get_logger().warning(text)


def _described(camera: Camera | InputError) -> str:
    if isinstance(camera, InputError):
        return f"invalid: {camera}"
    kind = "rectified" if not camera.distortion.size else camera.distortion_model
    return f"{camera.width}x{camera.height}, {kind}"
