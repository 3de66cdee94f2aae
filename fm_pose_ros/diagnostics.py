"""What a node tells about itself: counts and times on /diagnostics, and warnings.

diagnostic_updater isn't on PyPI; its message is plain enough.
"""

import time
from collections import Counter, deque
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import ReliabilityPolicy

from fm_pose_core.errors import InputError
from fm_pose_ros.lifecycle import PoseNode
from fm_pose_ros.node_config import NodeConfig
from fm_pose_ros.subscribing import FollowingSubscription

GRACE = 1.0  # seconds after activation before a missing topic is worth a warning
SILENCE = 2.0  # seconds without an image that are worth a warning level,
LONG = 5.0  # and those that are worth a line in the log
OLD = 10.0  # seconds: stamps that are so far from the node's clock are of another clock
LOOK = 5.0  # seconds between two looks at what is lost
LOST_MOST = 0.05  # share of images whose loss is no longer worth a warning
BUSY = 0.5  # share of its time from which on a node overtakes frames
RELIABLE = (
    "subscription and publisher are reliable, so the publisher gave them up before they were sent: give its queue a "
    "larger depth, or let it publish less"
)
REMEDY = (
    "a best-effort image that is larger than the middleware's buffers often does not arrive. Let the camera driver "
    "publish reliably, or start the camera driver with FASTRTPS_DEFAULT_PROFILES_FILE=…/config/fastdds.xml"
)
NO_CAMERA = "none received"  # in the diagnostics, as long as no camera_info came


class Statistics:
    """Counts and times of the frames since activation. All times in seconds; `now` is a steady clock."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.waiting_since = self.last_done = now  # for an image; for one that gives a result
        self.received = self.processed = self.found = self.dropped = self.bad = 0
        self.detections = self.unmatched = 0  # messages of a 2D detector; images let go without them
        self.waited = 0.0  # seconds in which frames' work was done by other threads, such as an engine's
        self.faults: Counter[str] = Counter()
        self._done: deque[float] = deque(maxlen=300)
        self._latency: deque[float] = deque(maxlen=300)
        self._age: deque[float] = deque(maxlen=300)
        self._sequence = 0

    def arrived(self, now: float, sequence: int | None) -> None:
        """A frame arrived. sequence: the publisher's message number, where the middleware tells it and there is one
        publisher; a gap in it is the number of frames that newer ones overtook, or that the network lost."""
        self.received += 1
        self.waiting_since = now
        if sequence and 0 < self._sequence < sequence:
            self.dropped += sequence - self._sequence - 1
        self._sequence = sequence or 0  # smaller than the last one: the publisher was started again

    def done(self, now: float, latency: float, age: float, found: bool) -> None:
        """A frame was processed in `latency`; its stamp was `age` old when the results went out."""
        self.processed += 1
        self.found += found
        self.last_done = now
        self._done.append(now)
        self._latency.append(latency)
        self._age.append(age)

    def failed(self, fault: str) -> None:
        """A frame gave no result because of a fault."""
        self.bad += 1
        self.faults[fault] += 1

    @property
    def age(self) -> float:
        """Of the last frame's stamp when its results went out, seconds; 0 before any."""
        return self._age[-1] if self._age else 0.0

    def rate(self, now: float, window: float = 5.0) -> float:
        """Processed frames per second over the last `window` seconds."""
        recent = [t for t in self._done if now - t <= window]
        span = min(window, now - self.started)
        return len(recent) / span if span > 0 else 0.0

    def values(self, now: float) -> dict[str, str]:
        """What goes into the status message."""
        values = {
            "rate (Hz)": f"{self.rate(now):.1f}",
            "frames received": str(self.received),
            "frames processed": str(self.processed),
            "frames with an object": str(self.found),
            "frames dropped (overtaken by a newer one or lost)": str(self.dropped),
            "frames without a matching detection": str(self.unmatched),
            "frames bad": str(self.bad),
        }
        for name, times in (("latency", self._latency), ("age of the stamp at output", self._age)):
            if times:
                shares = (50, 95, 99)
                for share, value in zip(shares, 1000 * np.percentile(times, shares), strict=True):
                    values[f"{name}, {share} % (ms)"] = f"{value:.1f}"
        for fault, count in self.faults.items():
            values[f"fault: {fault}"] = str(count)
        return values


class Diagnostics:
    """The status message and the warnings of one node.

    statistics: of the frames since activation. camera: what the status says about camera_info. values() adds key-value
    pairs while the node is configured.
    """

    def __init__(self, node: PoseNode, values: Callable[[], dict[str, str]]) -> None:
        self.statistics = Statistics(time.monotonic())
        self.camera = NO_CAMERA
        self._node, self._values = node, values
        self._images: FollowingSubscription | None = None
        self._infos: FollowingSubscription | None = None
        self._detections: FollowingSubscription | None = None
        self._lost = ""  # of images, at the last look
        self._crowded = ""  # topics with two publishers
        self._warned: dict[str, tuple[float, int]] = {}  # kind of fault: time of the last warning, how many since
        self._reported = (0, 0, 0, 0)  # processed and bad frames, detections, images without them at the last report
        # When the transport was last looked at; frames received, dropped, seconds worked by then.
        self._watched = (0.0, 0, 0, 0.0)
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = node.steady_timer(node.parameters.get(NodeConfig).diagnostics_period, self._on_timer)

    def begin(self, images: FollowingSubscription, infos: FollowingSubscription) -> None:
        """The node listens to these topics from now on; what was counted before is forgotten."""
        self.statistics = Statistics(time.monotonic())
        self.camera = NO_CAMERA
        self._images, self._infos, self._detections = images, infos, None
        self._lost = self._crowded = ""
        self._reported = (0, 0, 0, 0)
        self._watched = (self.statistics.started, 0, 0, time.thread_time())
        topics = f"{images.topic_name}, {infos.topic_name}"
        self._node.get_logger().info(f"active: {topics}, backend {self._node.backend}")

    def wait_for(self, detections: FollowingSubscription) -> None:
        """Images wait for what comes on this topic, too."""
        self._detections = detections

    def fault(self, kind: str, text: str) -> None:
        """Count a frame that gave nothing, and warn."""
        self.statistics.failed(kind)
        self.warn(kind, text)

    def fault_of(self, error: InputError) -> None:
        """The same; its kind is what the error names."""
        self.fault(str(error).split(":")[0], str(error))

    def warn_of(self, error: InputError) -> None:
        """A warning about input that is left out; its kind is what the error names."""
        self.warn(str(error).split(":")[0], str(error))

    def warn(self, kind: str, text: str) -> None:
        """A warning, at most one per kind of fault and `warning_period`."""
        now = time.monotonic()
        last, silent = self._warned.get(kind, (-float("inf"), 0))
        if now - last < self._node.parameters.get(NodeConfig).warning_period:
            self._warned[kind] = (last, silent + 1)
            return
        self._warned[kind] = (now, 0)
        more = f" ({silent} more since the last warning)" if silent else ""
        self._node.get_logger().warning(text + more)

    def _on_timer(self) -> None:
        now, node = time.monotonic(), self._node
        starved = ""
        if node.state == "active" and now - self.statistics.started > GRACE:
            self._warn_about_silence(now)
            self._watch_losses(now)
            self._count_cameras()
            starved = self._without_detections(now)
        level, message = self._judge(now, starved)
        values = {"state": node.state, "backend": node.backend, "camera_info": self.camera}
        values |= self._values() if node.state in ("inactive", "active") else {}
        values |= self.statistics.values(now)
        s = self.statistics
        self._reported = (s.processed, s.bad, s.detections, s.unmatched)
        status = DiagnosticStatus(level=level, message=message, hardware_id=node.hardware_id)
        status.name = node.get_fully_qualified_name().lstrip("/")
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _warn_about_silence(self, now: float) -> None:
        came = self.statistics.received > 0
        if self._images is not None and (not came or now - self.statistics.waiting_since > LONG):
            since = "any more" if came else "yet"
            text = f"no image on {self._images.topic_name} {since}, so no poses: {self._images.advice()}"
            self.warn("no image", text)
        if self._infos is not None and came and self.camera == NO_CAMERA:
            text = f"no camera_info on {self._infos.topic_name} yet, so no poses: {self._infos.advice()}"
            self.warn("no camera_info", text)

    def _without_detections(self, now: float) -> str:
        """That images wait in vain for what a 2D detector finds in them, or nothing."""
        s, (_, _, detections, unmatched) = self.statistics, self._reported
        if self._detections is None or s.unmatched == unmatched or now - s.last_done < SILENCE:
            return ""
        came = s.detections > detections
        why = "those that come have other stamps" if came else self._detections.advice()
        text = f"no detections of the images on {self._detections.topic_name}, so no poses: {why}"
        self.warn("no detections", text)
        return text

    def _watch_losses(self, now: float) -> None:
        """Frames that go missing while the node has time for them were lost on the way, not overtaken."""
        then, received, dropped, worked = self._watched
        s = self.statistics
        work = time.thread_time() + s.waited  # also for taking messages from the middleware
        if not s.received:  # what is done before the first image is no work on images
            self._watched = (now, 0, 0, work)
        if now - then < LOOK or self._images is None:
            return
        self._watched = (now, s.received, s.dropped, work)
        came, missed, share = s.received - received, s.dropped - dropped, (work - worked) / (now - then)
        self._lost = ""
        if missed > LOST_MOST * (came + missed) and missed > 2 and share < BUSY:
            topic = self._images.topic_name
            self._lost = f"{missed} of {came + missed} images on {topic} were lost on the way"
            reliable = self._images.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            self.warn("lost images", f"{self._lost}: {RELIABLE if reliable else REMEDY}")

    def _count_cameras(self) -> None:
        topics = [x.topic_name for x in (self._images, self._infos) if x is not None]
        self._crowded = ""
        for topic in topics:
            if (count := self._node.count_publishers(topic)) > 1:
                self._crowded = f"{topic}: expected one publisher, got {count}"
                self.warn(f"cameras {topic}", f"{self._crowded}; two cameras look like a jumping object")

    def _judge(self, now: float, starved: str) -> tuple[bytes, str]:
        """Level and message of the status. starved: see _without_detections."""
        if self._node.failure:
            return DiagnosticStatus.ERROR, self._node.failure
        if self._node.state != "active":
            return DiagnosticStatus.OK, self._node.state
        processed, bad = self.statistics.processed - self._reported[0], self.statistics.bad - self._reported[1]
        if not self.statistics.received or now - self.statistics.waiting_since > SILENCE:
            return DiagnosticStatus.WARN, f"no image on {self._images.topic_name if self._images else 'any topic'}"
        if bad:
            level = DiagnosticStatus.WARN if processed else DiagnosticStatus.ERROR
            return level, f"{bad} bad frames, {processed} good ones"
        for told in (starved, self._lost, self._crowded):
            if told:
                return DiagnosticStatus.WARN, told
        if abs(self.statistics.age) > OLD:
            told = f"the images' stamps are {self.statistics.age:.0f} s old; is use_sim_time as it should be?"
            return DiagnosticStatus.WARN, told
        return DiagnosticStatus.OK, f"{self.statistics.rate(now):.1f} Hz"
