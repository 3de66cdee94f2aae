"""A camera on one side of a node, a listener on the other, and the node's process between them."""

import array
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from fm_pose_core.errors import InputError, expect
from fm_pose_core.types import Camera
from fm_pose_ros.conversions import image_to_rgb
from fm_pose_ros.demo.bag import Bag
from fm_pose_ros.diagnostics import NO_CAMERA

ROOT = Path(__file__).resolve().parents[2]
# The middleware of both processes stays on this machine, and Fast DDS holds whole images in shared memory: with its
# defaults it loses about half of them between two processes. What the user has set stays.
MIDDLEWARE = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),  # Fast DDS 2 (Jazzy)
    "FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),  # Fast DDS 3
}
NAMESPACE, FRAME = "/demo", "camera_optical_frame"
T = TypeVar("T")
START_TIMEOUT = 90.0  # seconds: the node loads and compiles its network


@dataclass
class Answer:
    """What came back for one stamp, by topic, and when (monotonic seconds)."""

    messages: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)


class Player:
    """Plays frames into a node and gathers what it publishes.

    node: its name. inputs: messages that it subscribes to beside camera_info, by topic. outputs: what to listen to
    below the node's name. Everything goes into `bag`, raw images as JPEG.
    """

    def __init__(self, bag: Bag, node: str, inputs: Mapping[str, type], outputs: Mapping[str, type]) -> None:
        for name, value in MIDDLEWARE.items():
            os.environ.setdefault(name, value)  # read when rclpy starts
        rclpy.init(args=[])
        self._bag, self._name = bag, node
        self._node = rclpy.create_node("demo", namespace=NAMESPACE)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        kinds = {**inputs, "camera_info": CameraInfo}  # the last: when the node has it, it knows the others too
        self._publishers = {
            topic: self._node.create_publisher(
                kind, topic, qos_profile_sensor_data if kind in (Image, CameraInfo) else 10
            )
            for topic, kind in kinds.items()
        }
        self._answers: dict[int, Answer] = {}
        self._subscriptions = [self._listen(kind, f"{NAMESPACE}/{node}/{name}", name) for name, kind in outputs.items()]
        self._tf = self._listen(TFMessage, "/tf", "tf")
        self._failure, self._camera_state = "", NO_CAMERA
        self._diagnostics = self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _listen(self, kind: type, topic: str, name: str) -> Any:
        def note(msg: Any) -> None:
            now, when = time.monotonic(), time.time_ns()
            first = {"tf": "transforms", "markers": "markers"}.get(name)
            head = getattr(msg, first)[0].header if first and getattr(msg, first) else getattr(msg, "header", None)
            if head is not None and (answer := self._answers.get(_nanoseconds(head.stamp))):
                answer.messages[name], answer.times[name] = msg, now
            if isinstance(msg, Image):  # a raw image is large
                self._bag.write(f"{topic}/compressed", _jpeg(msg), when)
            else:
                self._bag.write(topic, msg, when)

        return self._node.create_subscription(kind, topic, note, 10)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        mine = [
            status
            for status in msg.status
            if status.name.split(":")[0].strip("/").startswith(f"{NAMESPACE}/{self._name}".strip("/"))
        ]
        for status in mine:
            self._failure = status.message if status.level == DiagnosticStatus.ERROR else ""
            self._camera_state = next((x.value for x in status.values if x.key == "camera_info"), NO_CAMERA)
        if mine:
            self._bag.write("/diagnostics", msg, time.time_ns())

    def wait_for_node(self, process: "subprocess.Popen[bytes]", camera: Camera) -> None:
        """Until the node and this camera know each other in all directions. It gets camera_info ahead of the first
        image, as from a running camera, until its diagnostics say that it came: then both sides hear each other. Raises
        InputError if the node ends or takes too long."""
        end = time.monotonic() + START_TIMEOUT
        while not self._connected() or self._camera_state == NO_CAMERA:
            expect(process.poll() is None, self._name, "to run", f"its end with exit code {process.poll()}")
            expect(not self._failure, self._name, "to become active", self._failure)
            expect(time.monotonic() < end, self._name, f"to be active within {START_TIMEOUT:.0f} s", "no connection")
            if self._connected():
                self._publishers["camera_info"].publish(camera_info(camera, self.header()))
            self.spin(0.05)

    def _connected(self) -> bool:
        return all(p.get_subscription_count() for p in self._publishers.values()) and all(
            s.get_publisher_count() for s in self._subscriptions
        )

    def spin(self, seconds: float) -> None:
        """Handle what arrives for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def paced(self, frames: Sequence[T], rate: float) -> Iterator[T]:
        """The frames at `rate` per second, slower if their answers take longer; what arrives meanwhile is handled."""
        due = time.monotonic()
        for frame in frames:
            self.spin(max(0.0, due - time.monotonic()))
            due = max(due + 1.0 / rate, time.monotonic())
            yield frame

    def header(self) -> Header:
        """Of a frame that the camera takes now."""
        return Header(stamp=self._node.get_clock().now().to_msg(), frame_id=FRAME)

    def play(
        self,
        camera: Camera,
        messages: Mapping[str, Any],
        recorded: CompressedImage,
        complete: Callable[[Answer], bool],
        timeout: float,
    ) -> tuple[Answer, float]:
        """Send one frame, camera_info first and `messages` (all of one stamp) by topic, and wait until the answers to
        it are `complete`, `timeout` seconds at most. Returns them, and when the frame was sent. recorded: what the bag
        gets for the image."""
        header = next(iter(messages.values())).header
        answer = self._answers[_nanoseconds(header.stamp)] = Answer()
        everything = {"camera_info": camera_info(camera, header), **messages}
        sent, when = time.monotonic(), time.time_ns()
        for topic, msg in everything.items():
            self._publishers[topic].publish(msg)
        while not complete(answer) and time.monotonic() - sent < timeout:
            self._executor.spin_once(timeout_sec=0.05)
        recorded.header = header
        for topic, msg in everything.items():
            if isinstance(msg, Image):
                topic, msg = (
                    topic + ("/compressedDepth" if "compressedDepth" in recorded.format else "/compressed"),
                    recorded,
                )
            self._bag.write(f"/{topic}", msg, when)
        return answer, sent

    def close(self) -> None:
        """Leave ROS."""
        self._node.destroy_node()
        rclpy.try_shutdown()


def camera_info(camera: Camera, header: Header) -> CameraInfo:
    """The message of a camera without distortion."""
    info = CameraInfo(
        header=header, width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5
    )
    info.k, info.r = camera.K.ravel(), np.eye(3).ravel()
    info.p = np.hstack([camera.K, np.zeros((3, 1))]).ravel()
    return info


def start_node(node: str, parameters: Mapping[str, object], log: Path) -> "subprocess.Popen[bytes]":
    """The executable that `ros2 run fm_pose_ros NODE` would run, its output in `log`."""
    try:
        executable = Path(get_package_prefix("fm_pose_ros"), "lib", "fm_pose_ros", node)
    except PackageNotFoundError:
        executable = Path()
    command = [str(executable)] if executable.is_file() else [sys.executable, "-m", f"fm_pose_ros.{node}"]
    command += [
        "--ros-args",
        "-r",
        f"__ns:={NAMESPACE}",
        *(x for name, value in parameters.items() for x in ("-p", f"{name}:={value}")),
    ]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env={**MIDDLEWARE, **os.environ}
        )


def given(settings: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, … of the command line."""
    for setting in settings:
        expect(bool(setting.partition("=")[1]), "--set", "NAME=VALUE", setting)
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}


def stop_node(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C, and harder if that is not heard."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(sign)
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            continue


def session(
    node: str,
    parameters: Mapping[str, object],
    inputs: Mapping[str, type],
    outputs: Mapping[str, type],
    camera: Camera,
    output: Path,
    play: Callable[[Player], list[T]],
) -> list[T]:
    """Start the node, `play`, stop it: the rows of the table. output: folder for node.log and the bag. Raises
    InputError, with the node's last words, if it does not become active."""
    log = output / "node.log"
    with contextlib.ExitStack() as stack:
        bag = Bag(output / "bag", NAMESPACE)
        stack.callback(bag.close)
        process = start_node(node, parameters, log)
        stack.callback(stop_node, process)
        player = Player(bag, node, inputs, outputs)
        stack.callback(player.close)
        begin = time.monotonic()
        try:
            player.wait_for_node(process, camera)
        except InputError as error:
            words = log.read_text(errors="replace").splitlines()[-20:]
            raise InputError("\n".join([f"{error}", f"The node's last words ({log}):", *words])) from None
        print(f"active after {time.monotonic() - begin:.1f} s; playing …\n", flush=True)
        return play(player)


def new_folder(path: Path, files: Sequence[str]) -> Path:
    """An empty folder for the results. Only what an earlier demo wrote there (`files`, the log, the bag) is removed."""
    path.mkdir(parents=True, exist_ok=True)
    for name in (*files, "node.log", "bag/metadata.yaml"):
        (path / name).unlink(missing_ok=True)
    for file in (path / "bag").glob("*.mcap"):
        file.unlink()
    if (path / "bag").is_dir():
        (path / "bag").rmdir()
    return path


def _jpeg(msg: Image) -> CompressedImage:
    content = cv2.imencode(".jpg", image_to_rgb(msg)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return CompressedImage(
        header=msg.header, format="rgb8; jpeg compressed bgr8", data=array.array("B", content.tobytes())
    )


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
