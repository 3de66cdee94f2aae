"""The demo of object_pose_node: a BOP sequence, with the 2D detection that begins (or recovers) the tracking."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import MarkerArray

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply
from fm_pose_core.objects.bop import BopDataset, Instance, Result, write_results
from fm_pose_core.objects.bundle import BundledObject, ObjectBundle
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.objects.metrics import ADD_THRESHOLD, PoseErrors, pose_errors
from fm_pose_ros.conversions import image_to_rgb, rgb_to_image
from fm_pose_ros.demo import player as play_back
from fm_pose_ros.demo.labelled import chosen, matrix, recorded, shares
from fm_pose_ros.demo.player import Answer, Player
from fm_pose_ros.demo.report import latency_line, median, present
from fm_pose_ros.msg import ProjectedBoxArray

NODE = "object_pose_node"
INPUTS = {"image_raw": Image, "detections_2d": Detection2DArray}
OUTPUTS = {
    "detections": Detection3DArray,
    "boxes": ProjectedBoxArray,
    "pose": PoseStamped,
    "markers": MarkerArray,
    "overlay": Image,
}
BUNDLE, SEQUENCE, LAYOUT = "tugboat", "sequence", "BOP dataset"
FILES = ("overlay.mp4", "overlay.png", "poses.csv", "results.csv")
COLUMNS = ("frame", "2D (px)", "rotation (°)", "translation (mm)", "ADD (mm)", "score", "latency (ms)")


@dataclass
class ObjectRow:
    """One frame of the table. latency: seconds from sending the image to receiving the pose. errors: None without a
    pose."""

    im_id: int
    center: tuple[float, float]
    answered: bool = False
    errors: PoseErrors | None = None
    score: float = float("nan")
    latency: float = float("nan")
    track: str = ""
    overlay: NDArray[np.uint8] | None = None
    result: Result | None = None

    def values(self) -> list[str]:
        """As they are printed."""
        if self.errors is None:
            return [
                str(self.im_id),
                "no pose" if self.answered else "no answer",
                "",
                "",
                "",
                "",
                f"{1e3 * self.latency:.1f}",
            ]
        e = self.errors
        numbers = (e.projection_2d, np.degrees(e.rotation), 1e3 * e.translation, 1e3 * e.add)
        return [str(self.im_id), *(f"{x:.2f}" for x in numbers), f"{self.score:.2f}", f"{1e3 * self.latency:.1f}"]

    def caption(self) -> str:
        """For the picture."""
        e = self.errors
        errors = (
            "no pose"
            if e is None
            else f"{e.projection_2d:.1f} px, {np.degrees(e.rotation):.1f} deg, {1e3 * e.translation:.0f} mm"
        )
        return f"frame {self.im_id}: {errors}"


def complete(answer: Answer) -> bool:
    """Whether all that the node sends for this frame is here: without a pose there is neither ~/pose nor TF."""
    if not {"detections", "boxes", "overlay"} <= answer.messages.keys():
        return False
    return not answer.messages["detections"].detections or {"pose", "tf"} <= answer.messages.keys()


def detections(box: Array, class_id: str, header: Header) -> Detection2DArray:
    """A 2D detector's answer: one box (x0, y0, x1, y1) in pixels."""
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = class_id, 0.9
    found = Detection2D(header=header, results=[hypothesis])
    found.bbox.center.position.x, found.bbox.center.position.y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    found.bbox.size_x, found.bbox.size_y = float(box[2] - box[0]), float(box[3] - box[1])
    return Detection2DArray(header=header, detections=[found])


def play(
    player: Player,
    instances: Sequence[Instance],
    vertices: Array,
    thing: BundledObject,
    rate: float,
    timeout: float,
    exact: bool,
) -> list[ObjectRow]:
    """Play all frames at `rate` per second; a row of the table for each. exact: the detections' centre is the true
    one."""
    rng = np.random.default_rng(0)
    rows = []
    for instance in player.paced(instances, rate):
        pixels = read_image(instance.image_path)
        uv = instance.camera.pixels(apply(instance.T_camera_object, vertices))
        box = np.concatenate([uv.min(0), uv.max(0)]) + rng.normal(scale=3.0, size=4)  # detectors are not exact
        if exact:
            center = instance.camera.pixels(apply(instance.T_camera_object, thing.center[None]))[0]
            box = np.concatenate([center - 40.0, center + 40.0])
        header = player.header()
        messages = {"image_raw": rgb_to_image(pixels, header), "detections_2d": detections(box, thing.name, header)}
        answer, sent = player.play(instance.camera, messages, recorded(instance.image_path), complete, timeout)
        rows.append(judge(answer, sent, instance, vertices, thing))
    return rows


def judge(answer: Answer, sent: float, instance: Instance, vertices: Array, thing: BundledObject) -> ObjectRow:
    """Compare the answer with the truth."""
    center = instance.camera.pixels(apply(instance.T_camera_object, thing.center[None]))[0]
    row = ObjectRow(instance.im_id, center=(float(center[0]), float(center[1])))
    if "overlay" in answer.messages:
        row.overlay = image_to_rgb(answer.messages["overlay"])
    if "detections" not in answer.messages:
        return row
    row.answered, row.latency = True, answer.times["detections"] - sent
    found = answer.messages["detections"].detections
    if found and "pose" in answer.messages:
        T = matrix(answer.messages["pose"].pose)
        row.errors = pose_errors(
            T, instance.T_camera_object, vertices, thing.diameter, instance.camera, thing.symmetries
        )
        row.score, row.track = found[0].results[0].hypothesis.score, found[0].id
        row.result = Result(instance.scene_id, instance.im_id, instance.object_id, row.score, T, row.latency)
    return row


def summary(rows: Sequence[ObjectRow], thing: BundledObject) -> str:
    """Medians over the frames with a pose, shares over all frames."""
    errors = [row.errors for row in rows if row.errors is not None]
    count = len({row.track for row in rows if row.track})
    lost = sum(not row.answered for row in rows)
    tracks = f"{count} track{'s' if count != 1 else ''}" + (f"; {lost} without an answer" if lost else "")
    pixels, degrees = median([e.projection_2d for e in errors]), np.degrees(median([e.rotation for e in errors]))
    millimetres, limit = 1e3 * median([e.translation for e in errors]), 1e3 * ADD_THRESHOLD * thing.diameter
    return "\n".join(
        [
            f"frames                       {len(rows)}, {len(errors)} with a pose, in {tracks}",
            f"median error                 {pixels:.2f} px in 2D projection, {degrees:.2f}°, {millimetres:.1f} mm",
            *shares(errors, len(rows), f"   ({limit:.1f} mm)"),
            f"latency, image to pose       {latency_line([row.latency for row in rows if row.answered])}",
        ]
    )


def run(args: argparse.Namespace) -> None:
    """The demo, of a bundle of one object. Raises InputError for what is missing, and if no frame has a pose."""
    bundle = ObjectBundle.load(args.bundle)
    expect(len(bundle.objects) == 1, str(args.bundle), "a bundle of one object for the demo", bundle.name)
    thing = bundle.object()
    instances = chosen(args, [thing.object_id])
    vertices = model_vertices(BopDataset(args.sequence).model(thing.object_id))
    settings = play_back.given(args.set)
    output = play_back.new_folder(args.output, FILES)
    print(f"{len(instances)} frames of {thing.name} through {NODE}; starting the node …", flush=True)
    source = "tracking" if args.window_source == "tracking" else "detections"
    parameters = {"bundle": args.bundle.resolve(), "window_source": source, "initial_window": "detections", **settings}
    exact = args.window_source == "gt"
    rows = play_back.session(
        NODE,
        parameters,
        INPUTS,
        OUTPUTS,
        instances[0].camera,
        output,
        lambda p: play(p, instances, vertices, thing, args.rate, args.timeout, exact),
    )
    write_results(output / "results.csv", [row.result for row in rows if row.result])
    present(COLUMNS, rows, summary(rows, thing), output, "poses.csv", args.rate, args.every)
    answers = f"{sum(row.answered for row in rows)} answers to {len(rows)} frames, no pose among them"
    expect(any(row.errors for row in rows), f"{output / 'node.log'}", "poses", answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `python -m fm_pose_ros.demo hand` has not."""
    parser.add_argument(
        "--window-source",
        choices=("tracking", "detections", "gt"),
        default="tracking",
        help="where the node looks; gt: detections with the true centre, as `fm-pose evaluate bop --window gt` "
        "(default: %(default)s)",
    )
