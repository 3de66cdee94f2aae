"""A node as a robot uses it: images published by this process, poses heard here, the node a process of its own. For
each size, rate and reliability of the publisher: which share of the images got no pose, the milliseconds from before
the image is published to after its pose is heard, and the processor's time in the node, all threads together, by the
number of images that got a pose. The same for the transport alone: a process that answers each image at once. Prints
JSON, or with --markdown the rows of a table.

    dev/with_ros .venv/bin/python benchmarks/node.py [--bundle models/duck] [--sizes 640x480 1280x720] [--rates 30 60]
    [--photographs demo/scene | --depth-maps demo/hands] [--still] [--publishers best_effort reliable] [--seconds 10]
    [--window {fixed,own,nearest,tracking}] [--views 1] [--threads 1] [--queue 1] [--profile {none,publisher,both}]
    [--markdown]

In place of noise of the --sizes, --photographs has the images of a dataset in BOP format, in turn, in which the bundle
finds its objects itself, and --depth-maps those of one in NYU's layout, for the node and the bundle of a hand. --still:
the camera stands still, only the first one is published. --window: the node's window_source. --profile: who has
FASTRTPS_DEFAULT_PROFILES_FILE=config/fastdds.xml.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hardware import cpu, hardware
from numpy.typing import NDArray

from fm_pose_core.files import read_image
from fm_pose_core.hands.frames import read_frames
from fm_pose_core.hands.labels import MM
from fm_pose_core.objects.bop import BopDataset

ROOT = Path(__file__).resolve().parents[1]
PROFILE = str(ROOT / "config/fastdds.xml")
COLOUR, DEPTH = "image_raw", "depth/image_rect_raw"


# (H, W, 3) uint8 RGB, or (H, W) uint16 millimetres; and the nine numbers of K
Picture = tuple[NDArray[Any], Sequence[float]]


def noise(size: tuple[int, int]) -> list[Picture]:
    """One picture, of a camera with an angle of view of 58 degrees."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [(pixels, [0.9 * width, 0.0, width / 2, 0.0, 0.9 * width, height / 2, 0.0, 0.0, 1.0])]


def photographs(root: Path) -> list[Picture]:
    """Of a dataset in BOP format, split `test`."""
    shown = {(x.scene_id, x.im_id): x for x in BopDataset(root).instances("test")}
    return [(read_image(x.image_path), x.camera.K.ravel().tolist()) for x in shown.values()]


def depth_maps(root: Path) -> list[Picture]:
    """Of a dataset in NYU's layout, split `test`."""
    frames = read_frames("nyu", root, "test")
    depths = [np.rint(frames.depth(k) / MM).astype(np.uint16) for k in range(len(frames))]
    return [(depth, frames.camera.K.ravel().tolist()) for depth in depths]


class Camera:
    """Publishes pictures in turn, and notes when, and when the node answered with how many objects, or hands."""

    def __init__(self, pictures: Sequence[Picture], reliable: bool) -> None:
        import rclpy
        from fm_pose_ros.msg import HandJoints
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CameraInfo, Image
        from vision_msgs.msg import Detection3DArray

        hand = pictures[0][0].ndim == 2
        self.node = rclpy.create_node("camera")
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=5, reliability=policy)
        self.images = self.node.create_publisher(Image, DEPTH if hand else COLOUR, qos)
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", qos)
        self.node.create_subscription(Detection3DArray, "object_pose_node/detections", self._heard, 100)
        self.node.create_subscription(HandJoints, "hand_pose_node/joints", self._heard, 100)
        self.messages = itertools.cycle([self._messages(*x) for x in pictures])
        self.sent: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self.objects: list[int] = []

    @staticmethod
    def _messages(pixels: NDArray[Any], K: Sequence[float]) -> tuple[Any, Any]:
        from sensor_msgs.msg import CameraInfo

        from fm_pose_ros.conversions import millimetres_to_image, rgb_to_image

        info = CameraInfo(width=pixels.shape[1], height=pixels.shape[0], distortion_model="plumb_bob")
        info.k = list(K)
        return info, (millimetres_to_image if pixels.ndim == 2 else rgb_to_image)(pixels, info.header)

    def _heard(self, msg: Any) -> None:
        self.answered.setdefault(msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec, time.perf_counter())
        self.objects.append(len(msg.detections) if hasattr(msg, "detections") else int(msg.valid))

    def publish(self) -> None:
        stamp, (info, image) = self.node.get_clock().now(), next(self.messages)
        info.header.stamp = image.header.stamp = stamp.to_msg()
        self.sent[stamp.nanoseconds] = time.perf_counter()
        self.infos.publish(info)
        self.images.publish(image)

    def forget(self) -> None:
        """What was sent and answered."""
        for noted in (self.sent, self.answered, self.objects):
            noted.clear()

    def run(self, rate: float, seconds: float) -> None:
        """Publish at a fixed rate, listen in between."""
        import rclpy

        start = time.perf_counter()
        for k in range(int(rate * seconds)):
            while (left := start + k / rate - time.perf_counter()) > 0:
                rclpy.spin_once(self.node, timeout_sec=left)
            self.publish()

    def listen(self, seconds: float) -> None:
        import rclpy

        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)


def start_node(
    name: str, bundle: str, views: int, source: str = "fixed", threads: int = 1, profile: bool = False, queue: int = 1
) -> subprocess.Popen[bytes]:
    """A node in a process of its own. name: which one. source: of its windows. profile: whether it has
    config/fastdds.xml. queue: images that wait, at most."""
    environment = {k: v for k, v in os.environ.items() if k != "FASTRTPS_DEFAULT_PROFILES_FILE"}
    if profile:
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = PROFILE
    parameters = {"bundle": bundle, "window_source": source, "views": views, "threads": threads}
    parameters[f"qos_overrides./{DEPTH if 'hand' in name else COLOUR}.subscription.depth"] = queue
    options = [x for k, v in parameters.items() for x in ("-p", f"{k}:={v}")]
    command = [sys.executable, "-m", f"fm_pose_ros.{name}", "--ros-args", *options, "--log-level", "error"]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def start_echo(reliability: str, profile: bool = False) -> subprocess.Popen[bytes]:
    """The transport alone."""
    environment = {k: v for k, v in os.environ.items() if k != "FASTRTPS_DEFAULT_PROFILES_FILE"}
    if profile:
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = PROFILE
    return subprocess.Popen([sys.executable, __file__, "--echo", reliability], cwd=ROOT, env=environment)


def echo(reliability: str) -> None:
    """Answer each image with an empty message of its stamp, as the node does with its pose."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection3DArray

    rclpy.init()
    node = rclpy.create_node("echo")
    answers = node.create_publisher(Detection3DArray, "object_pose_node/detections", 10)
    policy = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    qos = QoSProfile(depth=1, reliability=policy)
    for topic in (COLOUR, DEPTH):
        node.create_subscription(Image, topic, lambda m: answers.publish(Detection3DArray(header=m.header)), qos)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does it, and by force if that does not help."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_answers(process: subprocess.Popen[bytes], camera: Camera) -> None:
    """Until the node is there, and follows the publisher."""
    patience = time.perf_counter() + 60.0
    while not camera.answered:
        if process.poll() is not None or time.perf_counter() > patience:
            raise SystemExit("the node does not answer")
        camera.run(5.0, 0.4)


def measure(
    arguments: argparse.Namespace, pictures: Sequence[Picture], rate: float, reliability: str
) -> dict[str, Any]:
    """One case, with processes of its own."""
    both, hand = arguments.profile == "both", pictures[0][0].ndim == 2
    usual = "nearest" if hand else "own" if arguments.photographs else "fixed"
    what = "hand_pose_node" if hand else "object_pose_node", arguments.bundle, arguments.views
    how = *what, arguments.window or usual, arguments.threads, both, arguments.queue
    alone = listen(lambda: start_echo(reliability, both), arguments, pictures, rate, reliability)
    node = listen(lambda: start_node(*how), arguments, pictures, rate, reliability)
    height, width = pictures[0][0].shape[:2]
    case = {"size": f"{width}x{height}", "hz": rate, "publisher": reliability}
    return {**case, **node, "transport": alone}


def listen(
    start: Callable[[], "subprocess.Popen[bytes]"],
    arguments: argparse.Namespace,
    pictures: Sequence[Picture],
    rate: float,
    reliability: str,
) -> dict[str, Any]:
    """What comes back from a process."""
    import rclpy

    rclpy.init()
    camera = Camera(pictures, reliability == "reliable")
    process = start()
    try:
        wait_for_answers(process, camera)
        camera.run(rate, 2.0)
        camera.listen(1.0)
        camera.forget()
        before = processor_seconds(process.pid)
        camera.run(rate, arguments.seconds)
        camera.listen(1.0)
        taken = processor_seconds(process.pid) - before
    finally:
        end(process)
        camera.node.destroy_node()  # else the next node finds this publisher, too
        rclpy.shutdown()
    times = [1e3 * (camera.answered[k] - t) for k, t in camera.sent.items() if k in camera.answered]
    figures = {f"ms_p{p}": round(float(np.percentile(times, p)), 1) for p in (50, 95, 99)} if times else {}
    lost = 1.0 - len(times) / len(camera.sent)
    found = {"objects": round(float(np.mean(camera.objects)), 2)} if camera.objects else {}
    cost = {"processor_ms": round(1e3 * taken / len(times), 1)} if times else {}
    told = {"images": len(camera.sent), "without_pose": round(lost, 4), **figures, **cost, **found}
    return {**told, "exit": process.returncode}


def processor_seconds(pid: int) -> float:
    """That a process has taken so far, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def table(cases: list[dict[str, Any]]) -> str:
    """All cases, a row each."""
    lines = [
        "| image | rate | publisher | transport: median, 99 % | not answered | pose: median, 99 % | without pose "
        "| processor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        cells = [case["size"], f"{case['hz']:g} Hz", case["publisher"].replace("_", " ")]
        for x in (case["transport"], case):
            cells += [f"{x.get('ms_p50', '')}, {x.get('ms_p99', '')} ms", f"{x['without_pose']:.1%}".replace("%", " %")]
        lines.append(f"| {' | '.join(cells)} | {case.get('processor_ms', '')} ms |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=str(ROOT / "models/duck"))
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1280x720"])
    parser.add_argument("--rates", nargs="+", type=float, default=[30.0, 60.0])
    parser.add_argument("--publishers", nargs="+", default=["best_effort", "reliable"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--photographs", type=Path, metavar="BOP_DIR")
    parser.add_argument("--depth-maps", type=Path, metavar="NYU_DIR")
    parser.add_argument("--still", action="store_true", help="only the first picture")
    parser.add_argument("--window", choices=("fixed", "own", "nearest", "tracking"), help="window_source of the node")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queue", type=int, default=1, help="images that wait for the node, at most (its default: 1)")
    parser.add_argument("--profile", choices=("none", "publisher", "both"), default="none")
    parser.add_argument("--markdown", action="store_true", help="print a table in place of JSON")
    parser.add_argument("--echo", choices=("best_effort", "reliable"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        echo(arguments.echo)
        return
    os.environ.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
    if arguments.profile != "none":
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = PROFILE
    sizes = [size.split("x") for size in arguments.sizes]
    shown = [noise((int(width), int(height))) for width, height in sizes]
    if arguments.photographs or arguments.depth_maps:
        shown = [photographs(arguments.photographs) if arguments.photographs else depth_maps(arguments.depth_maps)]
    shown = [x[:1] for x in shown] if arguments.still else shown
    cases = [measure(arguments, *case) for case in itertools.product(shown, arguments.rates, arguments.publishers)]
    asked = ("bundle", "photographs", "depth_maps", "still", "window", "views", "threads", "queue", "profile")
    what = {k: str(v) for k in asked if (v := getattr(arguments, k))}
    if arguments.markdown:
        print(f"{cpu()}, {os.cpu_count()} cores; {what}\n\n{table(cases)}")
        return
    print(json.dumps({"hardware": hardware(), **what, "cases": cases}, indent=2))


if __name__ == "__main__":
    main()
