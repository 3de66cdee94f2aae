"""A camera and a listener around the real node: real rclpy, real DDS, a domain of its own for each test."""

import array
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
pytest.importorskip("fm_pose_ros.msg", reason="the messages of fm_pose_ros are not built: make environment")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fm_pose_ros.msg import HandJoints, ProjectedBoxArray
from geometry_msgs.msg import PoseArray, PoseStamped
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import MarkerArray

from fm_pose_core.types import Camera
from fm_pose_ros.object_pose_node import ObjectPoseNode

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
ROOT = Path(__file__).resolve().parents[2]
NODE = "object_pose_node"
FRAME = "camera_optical_frame"
PATIENCE = 20.0  # seconds; nothing waits that long unless it fails
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
_numbers = itertools.count(os.getpid())

CAMERA = Camera(np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), 320, 240)


def stamp_of(seconds: float) -> SimpleNamespace:
    whole = int(seconds)
    return SimpleNamespace(sec=whole, nanosec=round(1e9 * (seconds - whole)))


def header(stamp: float, frame: str = FRAME) -> Header:
    result = Header(frame_id=frame)
    result.stamp.sec, result.stamp.nanosec = stamp_of(stamp).sec, stamp_of(stamp).nanosec
    return result


def image_msg(pixels: np.ndarray, stamp: float, encoding: str = "rgb8", padding: int = 0) -> Image:
    """(H, W) or (H, W, C) uint8 -> Image with `padding` bytes behind each row."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 255, np.uint8)])
    data = array.array("B", rows.tobytes())
    return Image(header=header(stamp), height=height, width=width, encoding=encoding, step=rows.shape[1], data=data)


def info_msg(camera: Camera = CAMERA) -> CameraInfo:
    info = CameraInfo(
        header=header(0.0), width=camera.width, height=camera.height, distortion_model=camera.distortion_model
    )
    info.k = camera.K.reshape(9)
    info.d = list(camera.distortion)
    info.p = np.hstack([camera.K, np.zeros((3, 1))]).reshape(12)
    return info


def detections_msg(stamp: float, *found: tuple[str, float, float, float]) -> Detection2DArray:
    """found: (class id, score, u, v)."""
    msg = Detection2DArray(header=header(stamp))
    for class_id, score, u, v in found:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = class_id, score
        detection = Detection2D(header=header(stamp), results=[result])
        detection.bbox.center.position.x, detection.bbox.center.position.y = u, v
        detection.bbox.size_x = detection.bbox.size_y = 60.0
        msg.detections.append(detection)
    return msg


def start(peer: "Peer", module: str, *arguments: str) -> "subprocess.Popen[str]":
    """A module of fm_pose_ros as a process of its own, in the peer's domain."""
    command = [sys.executable, "-m", f"fm_pose_ros.{module}", *arguments]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(peer.domain)}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def ends_cleanly(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> None:
    """At a signal: exit status 0, and no traceback."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in errors, errors


class Peer:
    """A camera and a listener in a ROS domain of their own.

    `heard[topic]` holds what came on `~/topic` of the node (and on tf, diagnostics, rosout). Nothing here sleeps for a
    fixed time: `wait` spins until its condition holds.
    """

    def __init__(
        self,
        listen: tuple[str, ...] = (),
        *,
        image: str = "image_raw",
        info: str = "camera_info",
        node: str = NODE,
        compressed: str = "/compressed",
    ) -> None:
        number = next(_numbers)
        # rcl keeps one /rosout publisher per logger name in the whole process, so each node needs a name of its own.
        self.namespace = f"cell{number}"
        self.node_name = f"/{self.namespace}/{node}"
        self.domain = 1 + number % 100
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.peer = rclpy.create_node("peer", namespace=self.namespace, context=self.context)
        self._spinner = SingleThreadedExecutor(context=self.context)
        self._spinner.add_node(self.peer)
        self.images = self.peer.create_publisher(Image, image, qos_profile_sensor_data)
        self.compressed = self.peer.create_publisher(CompressedImage, f"{image}{compressed}", qos_profile_sensor_data)
        self.infos = self.peer.create_publisher(CameraInfo, info, qos_profile_sensor_data)
        self.detections = self.peer.create_publisher(Detection2DArray, "detections_2d", 10)
        kinds = {
            "detections": Detection3DArray,
            "pose": PoseStamped,
            "boxes": ProjectedBoxArray,
            "markers": MarkerArray,
            "masks": Image,
            "overlay": Image,
            "joints": HandJoints,
            "poses": PoseArray,
        }
        for topic in listen:
            self.listen(kinds[topic], f"{self.node_name}/{topic}", topic)
        self.listen(TFMessage, "/tf", "tf")
        self.listen(DiagnosticArray, "/diagnostics", "diagnostics")
        self.listen(Log, "/rosout", "rosout", LATCHED)

    def close(self) -> None:
        self.peer.destroy_node()
        rclpy.shutdown(context=self.context)

    def listen(self, kind: type, topic: str, name: str, qos: QoSProfile | int = 50) -> Any:
        return self.peer.create_subscription(kind, topic, self.heard[name].append, qos)

    def wait(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Spin until `condition()` is true, and return its value."""
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, f"waited for {what} in vain; warnings: {self.warnings()}"
            self._spinner.spin_once(timeout_sec=0.02)
        return value

    def send(self, msg: Any, answer: str = "detections") -> Any:
        """Publish one image and wait for the node's message on ~/`answer` with the same stamp."""
        (self.images if isinstance(msg, Image) else self.compressed).publish(msg)
        return self.answer(answer, msg.header.stamp)

    def answer(self, topic: str, stamp: Any) -> Any:
        """The message on ~/`topic` with that stamp."""

        def find() -> Any:
            return next((m for m in self.heard[topic] if m.header.stamp == stamp), None)

        return self.wait(find, f"~/{topic} at {stamp}")

    def warnings(self) -> list[str]:
        """What the node has warned about so far."""
        return [log.msg for log in self.heard["rosout"] if log.level >= 30 and self.namespace in log.name]

    def status(self) -> dict[str, str]:
        """Key-value pairs of the newest diagnostics, or nothing."""
        mine = self.states()
        return {pair.key: pair.value for pair in mine[-1].values} if mine else {}

    def states(self) -> list[DiagnosticStatus]:
        """All diagnostics so far."""
        return [s for array in self.heard["diagnostics"] for s in array.status if self.node_name.lstrip("/") in s.name]


class Rig(Peer):
    """A Peer with the node under test, which spins on a thread of its own."""

    def __init__(
        self,
        bundle: Path | str,
        parameters: dict[str, Any],
        listen: tuple[str, ...],
        node_class: type = ObjectPoseNode,
        **topics: str,
    ) -> None:
        """parameters: {ns} in a name stands for the namespace. topics: as for Peer."""
        super().__init__(listen, **topics)
        values: dict[str, Any] = {
            "bundle": str(bundle),
            "backend": "onnxruntime",
            "threads": 1,
            "diagnostics_period": 0.2,
            "views": 1,
        }
        # One view: the toy networks answer in a fixed pattern, which does not turn with the window.
        if node_class is ObjectPoseNode:
            values["window_source"] = "fixed"
        overrides = [
            Parameter(name.format(ns=self.namespace), value=value) for name, value in {**values, **parameters}.items()
        ]
        self.node = node_class(context=self.context, namespace=self.namespace, parameter_overrides=overrides)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while self.context.ok() and not self._closing:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._closing = True
        self._thread.join(PATIENCE)
        self.node.destroy_node()
        super().close()

    def wait_active(self) -> None:
        """Until the node is active and connected to the camera, and the listeners to the node."""

        def connected() -> bool:
            if self.node.state != "active":
                return False
            # Both ends must know of each other: what is sent before is lost.
            outputs = [s for s in self.peer.subscriptions if self.node_name in s.topic_name]
            readers = [*self.node._inputs, *outputs]
            topics = {reader.topic_name for reader in readers}
            writers = [p for p in [*self.peer.publishers, *self.node.publishers] if p.topic_name in topics]
            return all(r.get_publisher_count() for r in readers) and all(w.get_subscription_count() for w in writers)

        self.wait(connected, "the active node")

    def send_info(self, info: CameraInfo | None = None) -> None:
        """Publish a camera_info and wait until the node has it."""
        info = info or info_msg()
        got = []
        handler = self.node.camera_input._on_camera_info

        def note(msg: CameraInfo) -> None:
            handler(msg)
            got.append(msg)

        self.node.camera_input._infos.callback = note
        self.infos.publish(info)
        self.wait(lambda: got, "camera_info")
        self.node.camera_input._infos.callback = handler
