"""The demo of hand_pose_node: a sequence of depth maps in NYU's layout, or a folder of depth maps without labels."""

import argparse
import array
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from geometry_msgs.msg import PoseArray
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from fm_pose_core.config import parse_numbers
from fm_pose_core.errors import expect
from fm_pose_core.files import parse_ids
from fm_pose_core.geometry import Array
from fm_pose_core.hands.bundle import HandBundle
from fm_pose_core.hands.frames import HandFrames, read_frames, read_unlabelled
from fm_pose_core.hands.labels import DATASETS, MM, THRESHOLDS
from fm_pose_ros.conversions import image_to_rgb, millimetres_to_image
from fm_pose_ros.demo import player as play_back
from fm_pose_ros.demo.player import Answer, Player
from fm_pose_ros.demo.report import latency_line, median, present
from fm_pose_ros.msg import HandJoints

NODE = "hand_pose_node"
INPUTS = {"depth/image_rect_raw": Image}
OUTPUTS = {"joints": HandJoints, "poses": PoseArray, "markers": MarkerArray, "overlay": Image}
BUNDLE, SEQUENCE, LAYOUT = "hand", "hands", "dataset in NYU's layout"
FILES = ("overlay.mp4", "overlay.png", "joints.csv")
COLUMNS = ("frame", "mean error (mm)", "worst joint", "its error (mm)", "score", "latency (ms)")


@dataclass
class HandRow:
    """One frame of the table. latency: seconds from sending the depth map to receiving the joints. errors (J,) metres:
    None where no hand was found, or the truth is not known."""

    number: int
    center: tuple[float, float]
    joints: tuple[str, ...]
    answered: bool = False
    found: bool = False
    errors: Array | None = None
    score: float = float("nan")
    latency: float = float("nan")
    overlay: NDArray[np.uint8] | None = None

    def values(self) -> list[str]:
        """As they are printed."""
        if not self.found:
            return [
                str(self.number),
                "no hand" if self.answered else "no answer",
                "",
                "",
                "",
                f"{1e3 * self.latency:.1f}",
            ]
        if self.errors is None:
            return [str(self.number), "", "", "", f"{self.score:.2f}", f"{1e3 * self.latency:.1f}"]
        worst = int(self.errors.argmax())
        numbers = (
            f"{self.errors.mean() / MM:.1f}",
            self.joints[worst],
            f"{self.errors[worst] / MM:.1f}",
            f"{self.score:.2f}",
        )
        return [str(self.number), *numbers, f"{1e3 * self.latency:.1f}"]

    def caption(self) -> str:
        """For the picture."""
        if self.errors is None:
            return f"frame {self.number}: " + (
                f"score {self.score:.2f}" if self.found else "no hand" if self.answered else "no answer"
            )
        return f"frame {self.number}: mean {self.errors.mean() / MM:.0f} mm, worst {self.errors.max() / MM:.0f} mm"


def complete(answer: Answer) -> bool:
    """Whether all that the node sends for this frame is here."""
    return {"joints", "poses", "markers", "overlay"} <= answer.messages.keys()


def play(player: Player, frames: HandFrames, numbers: Sequence[int], rate: float, timeout: float) -> list[HandRow]:
    """Play the frames at `rate` per second; a row of the table for each."""
    rows = []
    for k, number in enumerate(player.paced(numbers, rate)):
        millimetres = np.clip(np.rint(frames.depth(k) / np.float32(MM)), 0, 65535).astype(np.uint16)
        recorded = CompressedImage(format="16UC1; compressedDepth png")
        recorded.data = array.array("B", bytes(12) + cv2.imencode(".png", millimetres)[1].tobytes())
        messages = {"depth/image_rect_raw": millimetres_to_image(millimetres, player.header())}
        answer, sent = player.play(frames.camera, messages, recorded, complete, timeout)
        rows.append(judge(answer, sent, number, frames, k))
    return rows


def judge(answer: Answer, sent: float, number: int, frames: HandFrames, k: int) -> HandRow:
    """Compare the answer with the truth."""
    row = HandRow(number, (frames.camera.width / 2, frames.camera.height / 2), frames.dataset.joints)
    if "overlay" in answer.messages:
        row.overlay = image_to_rgb(answer.messages["overlay"])
    if "joints" not in answer.messages:
        return row
    row.answered, row.latency = True, answer.times["joints"] - sent
    found = answer.messages["joints"]
    if found.valid:
        positions = np.array([[p.x, p.y, p.z] for p in found.positions])
        u, v = frames.camera.pixels(positions.mean(0)[None])[0]
        row.found, row.center, row.score = True, (float(u), float(v)), found.score
        if np.isfinite(frames.joints[k]).all():
            row.errors = np.linalg.norm(positions - frames.joints[k], axis=1)
    return row


def summary(rows: Sequence[HandRow]) -> str:
    """Errors over the frames with a hand, shares over all frames; the errors only where the truth is known."""
    errors = [row.errors for row in rows if row.errors is not None]
    found, lost = sum(row.found for row in rows), sum(not row.answered for row in rows)
    lines = [
        f"frames                       {len(rows)}, {found} with a hand"
        + (f"; {lost} without an answer" if lost else "")
    ]
    if errors:
        of_frames = median([e.mean() / MM for e in errors])
        lines.append(
            f"joint error                  {np.mean(errors) / MM:.1f} mm mean, {of_frames:.1f} mm in the median frame"
        )
        for t in THRESHOLDS:
            share = sum(bool(e.max() < t) for e in errors) / len(rows)
            lines.append(f"all joints < {t / MM:.0f} mm           {100 * share:5.1f} %")
    return "\n".join(
        [*lines, f"latency, depth to joints     {latency_line([row.latency for row in rows if row.answered])}"]
    )


def read(args: argparse.Namespace) -> HandFrames:
    """Labelled frames in NYU's layout, or with --camera all depth maps in the folder."""
    if not args.camera:
        labelled = any((args.sequence / args.split / name).is_file() for name in ("labels.txt", "joint_data.mat"))
        expect(
            labelled,
            str(args.sequence),
            "labels in NYU's layout, or --camera FX,FY,CX,CY for a folder of depth maps",
            "neither",
        )
        return read_frames("nyu", args.sequence, args.split)
    expect(args.unit > 0, "--unit", "metres, above 0", args.unit)
    fx, fy, cx, cy = parse_numbers("--camera", args.camera, 4)
    return read_unlabelled(args.sequence, DATASETS["nyu"], np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), args.unit)


def run(args: argparse.Namespace) -> None:
    """The demo. Raises InputError for what is missing, and if nothing is found in any frame."""
    bundle = HandBundle.load(args.bundle)
    frames = read(args)
    expect(
        bundle.hand.joints == frames.dataset.joints,
        str(args.bundle),
        f"the joints of NYU ({', '.join(frames.dataset.joints)})",
        bundle.hand.joints,
    )
    numbers = list(range(len(frames)))
    if args.frames:
        chosen = parse_ids(args.frames)
        numbers = [k for k in numbers if k in chosen]
    expect(bool(numbers), f"{args.sequence}, split {args.split}", "frames to play", "none")
    frames = frames.chosen(numbers)
    settings = play_back.given(args.set)
    output = play_back.new_folder(args.output, FILES)
    print(f"{len(numbers)} depth maps of a {bundle.name} through {NODE}; starting the node …", flush=True)
    rows = play_back.session(
        NODE,
        {"bundle": args.bundle.resolve(), **settings},
        INPUTS,
        OUTPUTS,
        frames.camera,
        output,
        lambda p: play(p, frames, numbers, args.rate, args.timeout),
    )
    present(COLUMNS, rows, summary(rows), output, "joints.csv", args.rate, args.every)
    answers = f"{sum(row.answered for row in rows)} answers to {len(rows)} frames, no hand among them"
    expect(any(row.found for row in rows), f"{output / 'node.log'}", "hands", answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `python -m fm_pose_ros.demo object` has not."""
    parser.add_argument(
        "--camera",
        metavar="FX,FY,CX,CY",
        help="the sequence is a folder of depth maps without labels, of this camera (pixels)",
    )
    parser.add_argument(
        "--unit",
        type=float,
        default=MM,
        metavar="METRES",
        help="with --camera: of the depth maps' numbers (default: %(default)s)",
    )
