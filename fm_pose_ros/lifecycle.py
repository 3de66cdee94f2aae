"""What every pose node shares: lifecycle with autostart, parameters, camera input, faults, diagnostics.

Everything runs on the executor's thread. The image subscription keeps one message (depth 1), so while a frame is being
processed the middleware overwrites the waiting one and the newest wins; overtaken frames are never deserialised, and
their number follows from the publisher's message numbers. No locks, and a lifecycle transition never meets a frame half
done.
"""

import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from fm_pose_core.config import knob
from fm_pose_core.errors import InputError, expect
from fm_pose_core.types import Camera
from fm_pose_ros.compat import TransformBroadcaster, destroy_broadcaster
from fm_pose_ros.conversions import camera_from_info, compressed_to_rgb, image_to_rgb, seconds
from fm_pose_ros.diagnostics import Statistics, diagnostic_array
from fm_pose_ros.parameters import Parameters

JUMP = 0.1  # seconds: stamps that go back by more than this mean another run of the bag or simulation, not jitter
GRACE = 1.0  # seconds after activation before a missing topic is worth a warning
NO_CAMERA = "none received"  # in the diagnostics, as long as no camera_info came

_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


@dataclass(frozen=True)
class NodeConfig:
    """Parameters that every pose node has."""

    autostart: bool = knob(True, "Configure and activate at the start; false leaves both to a lifecycle manager.")
    image_transport: str = knob(
        "raw",
        "raw subscribes to the image topic, compressed to its /compressed (for depth: /compressedDepth).",
        choices=("raw", "compressed"),
    )
    rectified: bool = knob(
        False, "The image is already rectified (image_rect): take P from camera_info, no distortion."
    )
    warning_period: float = knob(5.0, "Seconds between two warnings about the same kind of fault.", 0.0, 3600.0)
    diagnostics_period: float = knob(1.0, "Seconds between two messages on /diagnostics.", 0.05, 60.0)


FIXED = ("autostart", "image_transport", "rectified", "diagnostics_period")


@dataclass(frozen=True)
class Frame:
    """One camera image. header: for everything that is published about it. stamp: the header's, in seconds.
    image: (H, W, 3) uint8 RGB, or (H, W) float32 depth in metres."""

    header: Header
    stamp: float
    image: NDArray[Any]
    camera: Camera


class PoseNodeBase(LifecycleNode):
    """A lifecycle node that turns camera images into something. What that is, a subclass says in these:

    image_topic, compressed_suffix: what it subscribes to. pixels(msg) reads a message of it.

    setup() loads the model and creates publishers. teardown() lets go of the model. start() and stop() stand around the
    active state. process(frame, context) works on one image and returns whether it found anything. reset() forgets what
    was learned from earlier frames. take(msg) may hold an image back until more is known, and calls run(msg, context).
    report() adds to the diagnostics.
    """

    image_topic = "image_raw"
    compressed_suffix = "/compressed"

    def __init__(self, name: str, configs: dict[type, tuple[str, ...]], **kwargs: Any) -> None:
        """configs: dataclasses of knobs to declare as parameters, each with the names that are read-only. kwargs: as
        for rclpy's Node."""
        super().__init__(name, **kwargs)
        self.parameters = Parameters(self, {**configs, NodeConfig: FIXED})
        self.state = "unconfigured"
        self.hardware_id = ""
        self.backend = "none"
        self.statistics = Statistics(time.monotonic())
        self._failure = ""
        self._camera: Camera | InputError | None = None
        self._camera_frame = ""
        self._stamp = 0.0
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._warned: dict[str, tuple[float, int]] = {}  # kind of fault: time of the last warning, how many since
        self._reported = (0, 0)  # processed and bad frames at the last report
        # When the transport was last looked at; frames received, dropped, seconds busy by then.
        self._watched = (0.0, 0, 0, 0.0)

        # Steady clocks: diagnostics and the start must not wait for simulated time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        config = self.parameters.get(NodeConfig)
        self._timer = self.create_timer(config.diagnostics_period, self._on_timer, clock=steady)
        self._starter = self.create_timer(0.0, self._on_start, clock=steady) if config.autostart else None

    # What a subclass fills in

    def setup(self) -> None:
        """Load the model and create the publishers. Raises InputError if that's impossible: the node stays
        unconfigured."""

    def teardown(self) -> None:
        """Let go of the model."""

    def start(self) -> None:
        """Create the subscriptions beyond the camera."""

    def stop(self) -> None:
        """Last messages before the publishers fall silent."""

    def reset(self) -> None:
        """Forget what earlier frames said."""

    def pixels(self, msg: Image | CompressedImage) -> NDArray[Any]:
        """The image of a message. Raises InputError for one that cannot be read."""
        return image_to_rgb(msg) if isinstance(msg, Image) else compressed_to_rgb(msg)

    def take(self, msg: Image | CompressedImage) -> None:
        """A new image is here."""
        self.run(msg)

    def process(self, frame: Frame, context: Any) -> bool:
        """Work on one image, publish, and say whether anything was found. InputError becomes a throttled warning."""
        raise NotImplementedError

    def report(self) -> dict[str, str]:
        """More key-value pairs for the diagnostics."""
        return {}

    # Topics

    def subscription(self, msg_type: type, topic: str, callback: Any, depth: int = 1) -> Any:
        """A subscription with the sensor-data QoS (best effort goes with every publisher) that ends with the active
        state."""
        qos = _qos(depth, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
        subscription = self.create_subscription(
            msg_type, topic, callback, qos, qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE)
        )
        self._inputs.append(subscription)
        return subscription

    def publisher(self, msg_type: type, topic: str, depth: int = 10, latched: bool = False) -> Any:
        """A reliable lifecycle publisher that lasts until the node is cleaned up. latched: late subscribers get the
        last message."""
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = _qos(depth, ReliabilityPolicy.RELIABLE, durability)
        publisher = self.create_lifecycle_publisher(
            msg_type, topic, qos, qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE)
        )
        self._outputs.append(publisher)
        return publisher

    # From an image to process()

    def run(self, msg: Image | CompressedImage, context: Any = None) -> None:
        """Convert, process, and account for it. Whatever goes wrong costs this frame only."""
        begin = time.monotonic()
        try:
            frame = self._frame(msg)
            if frame is None:
                return
            found = self.process(frame, context)
        except InputError as error:
            self.fault(str(error).split(":")[0], str(error))
            return
        except Exception as error:
            self.fault("internal error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            return
        now = time.monotonic()
        age = 1e-9 * self.get_clock().now().nanoseconds - frame.stamp
        self.statistics.done(now, now - begin, age, found)

    def fault(self, kind: str, text: str) -> None:
        """Count a frame that gave nothing, and warn."""
        self.statistics.failed(kind)
        self.warn(kind, text)

    def warn(self, kind: str, text: str) -> None:
        """A warning, at most one per kind of fault and `warning_period`."""
        now = time.monotonic()
        last, silent = self._warned.get(kind, (-float("inf"), 0))
        if now - last < self.parameters.get(NodeConfig).warning_period:
            self._warned[kind] = (last, silent + 1)
            return
        self._warned[kind] = (now, 0)
        self.get_logger().warning(text + (f" ({silent} more since the last warning)" if silent else ""))

    def _frame(self, msg: Image | CompressedImage) -> Frame | None:
        image = self.pixels(msg)
        camera = self._camera
        if camera is None:  # The timer warns: at the start an image often comes before its camera_info.
            self.statistics.failed("camera_info missing")
            return None
        if isinstance(camera, InputError):
            raise camera
        height, width = image.shape[:2]
        expected = f"{camera.width}x{camera.height} as camera_info says (ROI and binning applied)"
        expect((width, height) == (camera.width, camera.height), "image size", expected, f"{width}x{height}")
        header = Header(stamp=msg.header.stamp, frame_id=msg.header.frame_id or self._camera_frame)
        return Frame(header, seconds(msg.header.stamp), image, camera)

    def _on_image(self, msg: Image | CompressedImage, info: Any) -> None:
        self.statistics.arrived(time.monotonic(), info.get("publication_sequence_number"))
        last, self._stamp = self._stamp, seconds(msg.header.stamp)
        if self._stamp < last:
            if last - self._stamp > JUMP:
                self.reset()
            back = f"{last - self._stamp:.3f} s back; that frame is skipped"
            self.fault("image.header.stamp", f"image.header.stamp: expected stamps that go forward, got {back}")
            return
        self.take(msg)

    def _on_camera_info(self, msg: CameraInfo) -> None:
        self._camera_frame = msg.header.frame_id
        try:
            self._camera = camera_from_info(msg, self.parameters.get(NodeConfig).rectified)
        except InputError as error:
            self._camera = error

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, create the publishers."""
        try:
            self.transforms = TransformBroadcaster(self)
            self.setup()
        except Exception as error:
            self._release()
            self._failure = f"cannot configure: {error}"
            self.get_logger().error(
                self._failure if isinstance(error, InputError) else f"cannot configure:\n{traceback.format_exc()}"
            )
            return TransitionCallbackReturn.FAILURE
        self.state, self._failure = "inactive", ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the publishers, subscribe."""
        result = super().on_activate(state)
        try:
            self.statistics = Statistics(time.monotonic())
            self._reported = (0, 0)
            self._watched = (self.statistics.started, 0, 0, 0.0)
            self._camera, self._stamp = None, 0.0
            self.reset()
            # Before the images: where both wait, the executor takes them in this order.
            self._infos = self.subscription(CameraInfo, "camera_info", self._on_camera_info)
            if self.parameters.get(NodeConfig).image_transport == "raw":
                self._images = self.subscription(Image, self.image_topic, self._on_image, self.image_depth)
            else:  # Follows a remapping of the topic.
                topic = self.resolve_topic_name(self.image_topic) + self.compressed_suffix
                self._images = self.subscription(CompressedImage, topic, self._on_image, self.image_depth)
            self.start()
        except Exception:
            self.get_logger().error(f"cannot activate:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        self.state = "active"
        self.get_logger().info(f"active: {self._images.topic_name}, {self._infos.topic_name}, backend {self.backend}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, silence the publishers."""
        self.stop()
        self._unsubscribe()
        self.state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and the publishers."""
        self._release()
        self.state = "unconfigured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From whatever state to the end."""
        if self.state == "active":
            self.stop()
        self._release()
        self.state = "finalized"
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed half-way: back to the start."""
        self._release()
        self.state = "unconfigured"
        return super().on_error(state)

    @property
    def image_depth(self) -> int:
        """Queue depth of the image subscription; 1: the newest frame wins."""
        return 1

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs.clear()

    def _release(self) -> None:
        self._unsubscribe()
        for publisher in self._outputs:
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        if getattr(self, "transforms", None) is not None:
            destroy_broadcaster(self, self.transforms)
            self.transforms = None
        self.teardown()
        self.backend = "none"

    def _on_start(self) -> None:
        self.destroy_timer(self._starter)
        if self.state == "unconfigured" and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # Diagnostics

    def _on_timer(self) -> None:
        now = time.monotonic()
        if self.state == "active" and now - self.statistics.started > GRACE:
            self._warn_about_silence()
            self._warn_about_losses(now)
        level, message = self._judge(now)
        values = {"state": self.state, "backend": self.backend, "camera_info": self._camera_state()}
        values |= self.report() if self.state in ("inactive", "active") else {}
        values |= self.statistics.values(now)
        self._reported = (self.statistics.processed, self.statistics.bad)
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(
            diagnostic_array(self.get_clock().now(), name, self.hardware_id, level, message, values)
        )

    def _warn_about_silence(self) -> None:
        for heard, what, subscription in (
            (self.statistics.received > 0, "image", self._images),
            (self._camera is not None or self.statistics.received == 0, "camera_info", self._infos),
        ):
            if not heard:
                topic = subscription.topic_name
                advice = "no poses until it comes; remap the topic if it has another name"
                self.warn(
                    f"no {what}", f"no {what} on {topic} yet ({self.count_publishers(topic)} publishers): {advice}"
                )

    def _warn_about_losses(self, now: float) -> None:
        """Frames that go missing while the node has time for them were lost on the way, not overtaken."""
        then, received, dropped, busy = self._watched
        if now - then < 5.0:
            return
        s = self.statistics
        self._watched = (now, s.received, s.dropped, s.busy)
        came, missed, share = s.received - received, s.dropped - dropped, (s.busy - busy) / (now - then)
        if missed > 10 and missed > 0.2 * (came + missed) and share < 0.5:
            topic = self._images.topic_name
            advice = f"if its publisher is reliable, set qos_overrides.{topic}.subscription.reliability to reliable"
            self.warn(
                "lost images",
                f"{missed} of {came + missed} images on {topic} were lost on the way (best effort): {advice}",
            )

    def _judge(self, now: float) -> tuple[bytes, str]:
        if self._failure:
            return DiagnosticStatus.ERROR, self._failure
        if self.state != "active":
            return DiagnosticStatus.OK, self.state
        processed, bad = self.statistics.processed - self._reported[0], self.statistics.bad - self._reported[1]
        if now - self.statistics.last_arrival > 2.0:
            return DiagnosticStatus.WARN, f"no image on {self._images.topic_name}"
        if bad:
            return (
                DiagnosticStatus.WARN if processed else DiagnosticStatus.ERROR
            ), f"{bad} bad frames, {processed} good ones"
        return DiagnosticStatus.OK, f"{self.statistics.rate(now):.1f} Hz"

    def _camera_state(self) -> str:
        if self._camera is None:
            return NO_CAMERA
        if isinstance(self._camera, InputError):
            return f"invalid: {self._camera}"
        kind = "rectified" if not self._camera.distortion.size else self._camera.distortion_model
        return f"{self._camera.width}x{self._camera.height}, {kind}"


def run_node(make: Callable[[], PoseNodeBase], name: str, args: list[str] | None = None) -> None:
    """Spin a node until it is told to end. A bad parameter ends it with one line."""
    rclpy.init(args=args)
    try:
        rclpy.spin(make())
    except (InputError, ParameterException) as error:
        sys.exit(f"{name}: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Ctrl-C under launch comes twice, from the terminal and from launch: the second must not hurt an orderly end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        rclpy.try_shutdown()


def _qos(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)
