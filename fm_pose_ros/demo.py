"""`make demo`: a camera sequence through the real node, over real DDS.

Starts object_pose_node as a process of its own, as a robot does, and plays a BOP sequence into it like a camera: image and
camera_info at a steady pace, with the 2D detection that begins (or recovers) the tracking. What the node answers is compared with
the truth in a table, and written down as a video, a contact sheet and an MCAP bag.
"""

import argparse
import array
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import MarkerArray

from fm_pose_core.bundle import ObjectBundle
from fm_pose_core.data.bop import BopDataset, Instance, Result, parse_ids, read_image, write_results
from fm_pose_core.errors import InputError, expect
from fm_pose_core.evaluate.bop import model_vertices
from fm_pose_core.evaluate.metrics import ADD_THRESHOLD, PROJECTION_THRESHOLD, PoseErrors, pose_errors
from fm_pose_core.geometry import Array, apply, rotation_from_quaternion, transform
from fm_pose_core.types import Camera
from fm_pose_ros.conversions import image_to_rgb
from fm_pose_ros.msg import ProjectedBoxArray

ROOT = Path(__file__).resolve().parents[1]
# The middleware of both processes stays on this machine, and Fast DDS holds whole images in shared memory: with its defaults it
# loses about half of them between two processes. What the user has set stays.
MIDDLEWARE = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),  # Fast DDS 2 (Jazzy)
    "FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml"),  # Fast DDS 3
}
NAMESPACE, NODE, FRAME = "/demo", "object_pose_node", "camera_optical_frame"
OUTPUTS = {"detections": Detection3DArray, "boxes": ProjectedBoxArray, "pose": PoseStamped, "markers": MarkerArray, "overlay": Image}
START_TIMEOUT = 90.0  # seconds: the node loads and compiles its network


@dataclass
class Row:
    """One frame of the table. latency: seconds from sending the image to receiving the pose. errors: None without a pose."""

    im_id: int
    answered: bool = False
    errors: PoseErrors | None = None
    score: float = float("nan")
    latency: float = float("nan")
    track: str = ""
    overlay: NDArray[np.uint8] | None = None
    result: Result | None = None
    center: tuple[float, float] = (0.0, 0.0)

    def values(self) -> list[str]:
        """As they are printed."""
        if self.errors is None:
            return [str(self.im_id), "no pose" if self.answered else "no answer", "", "", "", "", f"{1e3 * self.latency:.1f}"]
        e = self.errors
        numbers = (e.projection_2d, np.degrees(e.rotation), 1e3 * e.translation, 1e3 * e.add)
        return [str(self.im_id), *(f"{x:.2f}" for x in numbers), f"{self.score:.2f}", f"{1e3 * self.latency:.1f}"]


COLUMNS = ("frame", "2D (px)", "rotation (°)", "translation (mm)", "ADD (mm)", "score", "latency (ms)")


class Bag:
    """An MCAP bag (rosbag2 format) that knows the definitions of all its messages, ours and those of vision_msgs included."""

    def __init__(self, path: Path) -> None:
        self._types = get_typestore(Stores.ROS2_JAZZY)
        for package in ("vision_msgs", "fm_pose_ros"):
            for file in sorted(Path(get_package_share_directory(package), "msg").glob("*.msg")):
                self._types.register(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, msg: Any, when: int) -> None:
        """Add a message that was sent or received at `when` (nanoseconds). Topics are written without the demo's namespace, so that
        config/object_pose.rviz shows the bag as it is."""
        topic = topic.removeprefix(NAMESPACE)
        if topic not in self._connections:
            package, kind = type(msg).__module__.split(".")[0], type(msg).__name__
            self._connections[topic] = self._writer.add_connection(topic, f"{package}/msg/{kind}", typestore=self._types)
        self._writer.write(self._connections[topic], when, serialize_message(msg))

    def close(self) -> None:
        self._writer.close()


@dataclass
class Answer:
    """What came back for one stamp, by topic, and when (monotonic seconds)."""

    messages: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    def complete(self) -> bool:
        """Whether all that the node sends for this frame is here: without a pose there is neither ~/pose nor TF."""
        if not {"detections", "boxes", "overlay"} <= self.messages.keys():
            return False
        return not self.messages["detections"].detections or {"pose", "tf"} <= self.messages.keys()


class CameraPlayer:
    """A camera and a 2D detector on one side of the node, a listener on the other."""

    def __init__(self, bag: Bag) -> None:
        rclpy.init(args=[])
        self._bag = bag
        self._node = rclpy.create_node("demo", namespace=NAMESPACE)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._images = self._node.create_publisher(Image, "image_raw", qos_profile_sensor_data)
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
        self._detections = self._node.create_publisher(Detection2DArray, "detections_2d", 10)
        self._answers: dict[int, Answer] = {}
        self._subscriptions = [self._listen(kind, f"{NAMESPACE}/{NODE}/{name}", name) for name, kind in OUTPUTS.items()]
        self._subscriptions.append(self._listen(TFMessage, "/tf", "tf"))
        self._failure = ""
        self._diagnostics = self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _listen(self, kind: type, topic: str, name: str) -> Any:
        def note(msg: Any) -> None:
            now, when = time.monotonic(), time.time_ns()
            first = {"tf": "transforms", "markers": "markers"}.get(name)
            head = getattr(msg, first)[0].header if first and getattr(msg, first) else getattr(msg, "header", None)
            if head is not None and (answer := self._answers.get(_nanoseconds(head.stamp))):
                answer.messages[name], answer.times[name] = msg, now
            if name == "overlay":  # a raw image is large: the bag gets a JPEG
                self._bag.write(f"{topic}/compressed", _jpeg(msg), when)
            else:
                self._bag.write(topic, msg, when)

        return self._node.create_subscription(kind, topic, note, 10)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        mine = [status for status in msg.status if status.name.split(":")[0].strip("/").startswith(f"{NAMESPACE}/{NODE}".strip("/"))]
        for status in mine:
            self._failure = status.message if status.level == DiagnosticStatus.ERROR else ""
        if mine:
            self._bag.write("/diagnostics", msg, time.time_ns())

    def wait_for_node(self, process: "subprocess.Popen[bytes]") -> None:
        """Until the node and this camera know each other in all directions. Raises InputError if the node ends or takes too long."""
        end = time.monotonic() + START_TIMEOUT
        publishers = (self._images, self._infos, self._detections)
        while not (all(p.get_subscription_count() for p in publishers) and all(s.get_publisher_count() for s in self._subscriptions)):
            expect(process.poll() is None, NODE, "to run", f"its end with exit code {process.poll()}")
            expect(not self._failure, NODE, "to become active", self._failure)
            expect(time.monotonic() < end, NODE, f"to be active within {START_TIMEOUT:.0f} s", "no connection")
            self.spin(0.05)

    def spin(self, seconds: float) -> None:
        """Handle what arrives for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def play(self, pixels: NDArray[np.uint8], jpeg: CompressedImage, camera: Camera, box: Array, class_id: str, timeout: float) -> tuple[Answer, float]:
        """Send one frame and wait for all answers to it, `timeout` seconds at most. Returns them, and when the image was sent."""
        stamp = self._node.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id=FRAME)
        image = Image(header=header, height=camera.height, width=camera.width, encoding="rgb8", step=3 * camera.width)
        image.data = array.array("B", pixels.tobytes())
        info, found = camera_info(camera, header), detections(box, class_id, header)
        answer = self._answers[_nanoseconds(stamp)] = Answer()
        sent, when = time.monotonic(), time.time_ns()
        self._infos.publish(info)
        self._images.publish(image)
        self._detections.publish(found)
        while not answer.complete() and time.monotonic() - sent < timeout:
            self._executor.spin_once(timeout_sec=0.05)
        jpeg.header = header
        for topic, msg in (("camera_info", info), ("image_raw/compressed", jpeg), ("detections_2d", found)):
            self._bag.write(f"/{topic}", msg, when)
        return answer, sent

    def greet(self, camera: Camera) -> None:
        """A camera_info ahead of the first image, as a running camera has sent many."""
        self._infos.publish(camera_info(camera, Header(stamp=self._node.get_clock().now().to_msg(), frame_id=FRAME)))
        self.spin(0.3)

    def close(self) -> None:
        self._node.destroy_node()
        rclpy.try_shutdown()


def camera_info(camera: Camera, header: Header) -> CameraInfo:
    """The message of a camera without distortion."""
    info = CameraInfo(header=header, width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k, info.r = camera.K.ravel(), np.eye(3).ravel()
    info.p = np.hstack([camera.K, np.zeros((3, 1))]).ravel()
    return info


def detections(box: Array, class_id: str, header: Header) -> Detection2DArray:
    """A 2D detector's answer: one box (x0, y0, x1, y1) in pixels."""
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = class_id, 0.9
    found = Detection2D(header=header, results=[hypothesis])
    found.bbox.center.position.x, found.bbox.center.position.y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    found.bbox.size_x, found.bbox.size_y = float(box[2] - box[0]), float(box[3] - box[1])
    return Detection2DArray(header=header, detections=[found])


def start_node(bundle: Path, window_source: str, log: Path) -> "subprocess.Popen[bytes]":
    """The executable that `ros2 run fm_pose_ros object_pose_node` would run, its output in `log`."""
    try:
        executable = Path(get_package_prefix("fm_pose_ros"), "lib", "fm_pose_ros", NODE)
    except PackageNotFoundError:
        executable = Path()
    command = [str(executable)] if executable.is_file() else [sys.executable, "-m", f"fm_pose_ros.{NODE}"]
    parameters = {"bundle": bundle.resolve(), "window_source": window_source, "initial_window": "detections"}
    command += ["--ros-args", "-r", f"__ns:={NAMESPACE}", *(x for name, value in parameters.items() for x in ("-p", f"{name}:={value}"))]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


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


def play(
    player: CameraPlayer, instances: Sequence[Instance], vertices: Array, bundle: ObjectBundle, rate: float, timeout: float, exact: bool
) -> list[Row]:
    """Play all frames at `rate` per second; a row of the table for each. exact: the detections' centre is the true one."""
    rng = np.random.default_rng(0)
    rows = []
    player.greet(instances[0].camera)
    due = time.monotonic()
    for instance in instances:
        pixels = read_image(instance.image_path)
        jpeg = CompressedImage(format="png" if instance.image_path.suffix == ".png" else "jpeg")
        jpeg.data = array.array("B", instance.image_path.read_bytes())
        uv = instance.camera.pixels(apply(instance.T_camera_object, vertices))
        box = np.concatenate([uv.min(0), uv.max(0)]) + rng.normal(scale=3.0, size=4)  # detectors are not exact
        if exact:
            center = instance.camera.pixels(apply(instance.T_camera_object, bundle.center[None]))[0]
            box = np.concatenate([center - 40.0, center + 40.0])
        player.spin(max(0.0, due - time.monotonic()))
        due = max(due + 1.0 / rate, time.monotonic())
        answer, sent = player.play(pixels, jpeg, instance.camera, box, bundle.name, timeout)
        rows.append(judge(answer, sent, instance, vertices, bundle))
    return rows


def judge(answer: Answer, sent: float, instance: Instance, vertices: Array, bundle: ObjectBundle) -> Row:
    """Compare the answer with the truth."""
    center = instance.camera.pixels(apply(instance.T_camera_object, bundle.center[None]))[0]
    row = Row(instance.im_id, center=(float(center[0]), float(center[1])))
    if "overlay" in answer.messages:
        row.overlay = image_to_rgb(answer.messages["overlay"])
    if "detections" not in answer.messages:
        return row
    row.answered, row.latency = True, answer.times["detections"] - sent
    found = answer.messages["detections"].detections
    if found and "pose" in answer.messages:
        p, q = answer.messages["pose"].pose.position, answer.messages["pose"].pose.orientation
        T = transform(rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([p.x, p.y, p.z]))
        row.errors = pose_errors(T, instance.T_camera_object, vertices, bundle.diameter, instance.camera, bundle.symmetries)
        row.score, row.track = found[0].results[0].hypothesis.score, found[0].id
        row.result = Result(instance.scene_id, instance.im_id, instance.object_id, row.score, T, row.latency)
    return row


def table(rows: Sequence[Row], every: int) -> str:
    """Every `every`-th row, with a heading."""
    lines = [COLUMNS, *(row.values() for row in rows[::every])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def summary(rows: Sequence[Row], bundle: ObjectBundle) -> str:
    """Medians over the frames with a pose, shares over all frames."""
    errors = [row.errors for row in rows if row.errors is not None]

    def median(values: Sequence[float]) -> float:
        return float(np.median(values)) if len(values) else float("nan")

    def share(correct: Sequence[bool]) -> str:
        return f"{100.0 * sum(correct) / len(rows):5.1f} %"

    latencies = 1e3 * np.array([row.latency for row in rows if row.answered])
    tracks = {row.track for row in rows if row.track}
    lost = sum(not row.answered for row in rows)
    return "\n".join(
        [
            f"frames                       {len(rows)}, {len(errors)} with a pose, in {len(tracks)} track{'s' if len(tracks) != 1 else ''}"
            + (f"; {lost} without an answer" if lost else ""),
            f"median error                 {median([e.projection_2d for e in errors]):.2f} px in 2D projection, "
            f"{np.degrees(median([e.rotation for e in errors])):.2f}°, {1e3 * median([e.translation for e in errors]):.1f} mm",
            f"2D projection < {PROJECTION_THRESHOLD:.0f} px         {share([e.projection_correct for e in errors])}",
            f"ADD < {100 * ADD_THRESHOLD:.0f} % of diameter     {share([e.add_correct for e in errors])}   ({1e3 * ADD_THRESHOLD * bundle.diameter:.1f} mm)",
            f"latency, image to pose       {median(latencies.tolist()):.1f} ms median, "
            + (f"{np.percentile(latencies, 95):.1f} ms 95th percentile" if len(latencies) else "no answers"),
        ]
    )


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """The whole table."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *(row.values() for row in rows)])


def captioned(row: Row) -> NDArray[np.uint8]:
    """The node's overlay (H, W, 3) RGB with the frame's errors below."""
    assert row.overlay is not None
    image = row.overlay.copy()
    text = f"frame {row.im_id}: "
    text += "no pose" if row.errors is None else f"{row.errors.projection_2d:.1f} px, {np.degrees(row.errors.rotation):.1f} deg, {1e3 * row.errors.translation:.0f} mm"
    at = (8, image.shape[0] - 10)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def write_video(rows: Sequence[Row], path: Path, rate: float) -> bool:
    """The overlays as MP4. Returns whether OpenCV could write it."""
    shown = [row for row in rows if row.overlay is not None]
    if not shown:
        return False
    height, width = shown[0].overlay.shape[:2]  # type: ignore[union-attr]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))  # type: ignore[attr-defined]
    for row in shown:
        writer.write(captioned(row)[..., ::-1])
    writer.release()
    return path.is_file() and path.stat().st_size > 0


def write_contact_sheet(rows: Sequence[Row], path: Path, columns: int = 4, count: int = 12) -> None:
    """`count` overlays, evenly chosen, cut around the object: half the image's width each."""
    shown = [row for row in rows if row.overlay is not None]
    if not shown:
        return
    chosen = [shown[round(i)] for i in np.linspace(0, len(shown) - 1, min(count, len(shown)))]
    tiles = []
    for row in chosen:
        assert row.overlay is not None
        height, width = row.overlay.shape[0] // 2, row.overlay.shape[1] // 2
        x = int(np.clip(row.center[0] - width / 2, 0, row.overlay.shape[1] - width))
        y = int(np.clip(row.center[1] - height / 2, 0, row.overlay.shape[0] - height))
        tile = cv2.resize(row.overlay[y : y + height, x : x + width], (480, 480 * height // width), interpolation=cv2.INTER_CUBIC)
        cv2.putText(tile, str(row.im_id), (8, tile.shape[0] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])
    cv2.imwrite(str(path), sheet[..., ::-1])


def _jpeg(msg: Image) -> CompressedImage:
    content = cv2.imencode(".jpg", image_to_rgb(msg)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return CompressedImage(header=msg.header, format="rgb8; jpeg compressed bgr8", data=array.array("B", content.tobytes()))


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def new_folder(path: Path) -> Path:
    """An empty folder for the results. Only what an earlier demo wrote there is removed."""
    path.mkdir(parents=True, exist_ok=True)
    for name in ("overlay.mp4", "overlay.png", "poses.csv", "results.csv", "node.log", "demo_bag/metadata.yaml"):
        (path / name).unlink(missing_ok=True)
    for file in (path / "demo_bag").glob("*.mcap"):
        file.unlink()
    if (path / "demo_bag").is_dir():
        (path / "demo_bag").rmdir()
    return path


def run(args: argparse.Namespace) -> int:
    """The demo; returns the exit code."""
    bundle = ObjectBundle.load(args.bundle)
    dataset = BopDataset(args.sequence)
    instances = dataset.instances(args.split, [bundle.object_id])
    if args.frames:
        chosen = parse_ids(args.frames)
        instances = [x for x in instances if x.im_id in chosen]
    expect(bool(instances), f"{args.sequence}, split {args.split}", f"images of object {bundle.object_id}", "none")
    vertices = model_vertices(dataset.model(bundle.object_id))
    output = new_folder(args.output)
    for name, value in MIDDLEWARE.items():
        os.environ.setdefault(name, value)  # read when rclpy starts, and inherited by the node

    print(f"{len(instances)} frames of {bundle.name} through {NODE} in ROS 2 {os.environ.get('ROS_DISTRO', '')}; starting the node …", flush=True)
    log = output / "node.log"
    bag = Bag(output / "demo_bag")
    process = start_node(args.bundle, "tracking" if args.window_source == "tracking" else "detections", log)
    player = CameraPlayer(bag)
    try:
        begin = time.monotonic()
        player.wait_for_node(process)
        print(f"active after {time.monotonic() - begin:.1f} s; playing at {args.rate:g} frames per second …\n", flush=True)
        rows = play(player, instances, vertices, bundle, args.rate, args.timeout, exact=args.window_source == "gt")
    except InputError as error:
        print(f"demo: {error}\nThe node's last words ({log}):\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:]), file=sys.stderr)
        return 1
    finally:
        player.close()
        stop_node(process)
        bag.close()

    print(table(rows, args.every) + "\n\n" + summary(rows, bundle) + "\n")
    write_csv(rows, output / "poses.csv")
    write_results(output / "results.csv", [row.result for row in rows if row.result])
    video = write_video(rows, output / "overlay.mp4", args.rate)
    write_contact_sheet(rows, output / "overlay.png")
    if not any(row.errors for row in rows):
        got = f"{sum(row.answered for row in rows)} answers to {len(rows)} frames, no pose among them"
        print(f"demo: expected poses, got {got}; the node's output is in {log}", file=sys.stderr)
        return 1
    print(f"video  {output / 'overlay.mp4'}" if video else "video  none: this OpenCV cannot write MP4")
    print(f"image  {output / 'overlay.png'}\nbag    {output / 'demo_bag'}   (open in Foxglove, or: ros2 bag play {output / 'demo_bag'})")
    print(f"table  {output / 'poses.csv'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m fm_pose_ros.demo", description="Play a BOP sequence into object_pose_node.")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "tugboat", help="bundle of the object (default: %(default)s)")
    parser.add_argument("--sequence", type=Path, default=ROOT / "demo" / "sequence", help="BOP dataset with the frames (default: %(default)s)")
    parser.add_argument("--split", default="test", help="split of the dataset (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second (default: %(default)s)")
    parser.add_argument("--frames", metavar="IDS", help="play these image ids only, such as 0-29,60")
    parser.add_argument("--every", type=int, default=5, help="print every so many rows (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for the answer to a frame (default: %(default)s)")
    parser.add_argument(
        "--window-source",
        choices=("tracking", "detections", "gt"),
        default="tracking",
        help="where the node looks; gt: detections with the true centre, as `fm-pose evaluate bop --window gt` (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    try:
        return run(args)
    except InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
