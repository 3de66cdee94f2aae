"""The demo of object_pose_node with several objects, which it finds by itself in each photograph."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image
from fm_pose_core.objects.bop import Instance, Result, write_results
from fm_pose_core.objects.bundle import BundledObject, ObjectBundle
from fm_pose_core.objects.metrics import PoseErrors, pose_errors
from fm_pose_core.rendering.mesh import read_vertices
from fm_pose_ros.conversions import image_to_rgb, rgb_to_image
from fm_pose_ros.demo import player as play_back
from fm_pose_ros.demo.labelled import chosen, matrix, recorded, shares
from fm_pose_ros.demo.player import Answer, Player
from fm_pose_ros.demo.report import latency_line, median, present
from fm_pose_ros.msg import ProjectedBoxArray

NODE = "object_pose_node"
INPUTS = {"image_raw": Image}
OUTPUTS = {"detections": Detection3DArray, "boxes": ProjectedBoxArray, "markers": MarkerArray, "overlay": Image}
BUNDLE, SEQUENCE, LAYOUT = "lmo", "scene", "BOP dataset"
FILES = ("overlay.mp4", "overlay.png", "images.csv", "results.csv")
COLUMNS = ("frame", "visible", "found", "2D < 5 px", "ADD(-S) < 10 %", "2D (px)", "others", "latency (ms)")
VISIBLE = 0.1  # instances that show less are left out, as in the BOP benchmark


@dataclass
class SceneRow:
    """One photograph. visible: objects to be found. errors: of those that were found. others: poses of objects that are
    not there. latency: seconds from sending the image to receiving the poses."""

    im_id: int
    visible: int
    answered: bool = False
    errors: list[PoseErrors] = field(default_factory=list)
    others: int = 0
    latency: float = float("nan")
    overlay: NDArray[np.uint8] | None = None
    results: list[Result] = field(default_factory=list)
    center: None = None  # the whole picture counts

    @property
    def projected(self) -> int:
        return sum(e.projection_correct for e in self.errors)

    @property
    def close(self) -> int:
        return sum(e.add_correct for e in self.errors)

    def values(self) -> list[str]:
        """As they are printed."""
        if not self.answered:
            return [str(self.im_id), str(self.visible), "no answer", "", "", "", "", ""]
        pixels = median([e.projection_2d for e in self.errors])
        numbers = self.im_id, self.visible, len(self.errors), self.projected, self.close
        return [*map(str, numbers), f"{pixels:.1f}", str(self.others), f"{1e3 * self.latency:.0f}"]

    def caption(self) -> str:
        """For the picture."""
        return f"image {self.im_id}: {len(self.errors)} of {self.visible} found, {self.projected} within 5 px"


def play(
    player: Player, images: Sequence[Sequence[Instance]], things: dict[str, BundledObject], rate: float, timeout: float
) -> list[SceneRow]:
    """Send all photographs; a row of the table for each. images: the labelled objects of each."""
    vertices = {name: _vertices(thing) for name, thing in things.items()}
    rows = []
    for group in player.paced(images, rate):
        path, camera = group[0].image_path, group[0].camera
        messages = {"image_raw": rgb_to_image(read_image(path), player.header())}
        answer, sent = player.play(camera, messages, recorded(path), complete, timeout)
        rows.append(judge(answer, sent, group, things, vertices))
    return rows


def complete(answer: Answer) -> bool:
    """Whether all that the node sends for this image is here."""
    return {"detections", "boxes", "overlay"} <= answer.messages.keys()


def judge(
    answer: Answer,
    sent: float,
    group: Sequence[Instance],
    things: dict[str, BundledObject],
    vertices: dict[str, NDArray[np.float64]],
) -> SceneRow:
    """Compare the answer with the labels."""
    row = SceneRow(group[0].im_id, sum(not x.visible_fraction < VISIBLE for x in group))
    if "overlay" in answer.messages:
        row.overlay = image_to_rgb(answer.messages["overlay"])
    if "detections" not in answer.messages:
        return row
    row.answered, row.latency = True, answer.times["detections"] - sent
    labelled = {x.object_id: x for x in group}
    for found in answer.messages["detections"].detections:
        hypothesis = found.results[0]
        thing = things[hypothesis.hypothesis.class_id]
        T, score = matrix(hypothesis.pose.pose), hypothesis.hypothesis.score
        row.results.append(Result(group[0].scene_id, row.im_id, thing.object_id, score, T, row.latency))
        label = labelled.pop(thing.object_id, None)
        if label is None:
            row.others += 1
        elif not label.visible_fraction < VISIBLE:
            truth, known = label.T_camera_object, vertices[thing.name]
            row.errors.append(pose_errors(T, truth, known, thing.diameter, label.camera, thing.symmetries))
    return row


def _vertices(thing: BundledObject) -> NDArray[np.float64]:
    expect(thing.mesh_path is not None, thing.name, "a mesh in the bundle", "none")
    assert thing.mesh_path is not None
    return read_vertices(thing.mesh_path)


def summary(rows: Sequence[SceneRow]) -> str:
    """Over all visible objects of all images."""
    visible, found = sum(row.visible for row in rows), [e for row in rows for e in row.errors]
    others = sum(row.others for row in rows)

    lost = sum(not row.answered for row in rows)
    return "\n".join(
        [
            f"images                       {len(rows)}" + (f"; {lost} without an answer" if lost else ""),
            f"visible objects              {visible}, {len(found)} with a pose; {others} other poses",
            *shares(found, visible),
            f"latency, image to poses      {latency_line([row.latency for row in rows if row.answered])}",
        ]
    )


def run(args: argparse.Namespace) -> None:
    """The demo. Raises InputError for what is missing, and if no object has a pose."""
    bundle = ObjectBundle.load(args.bundle)
    expect(bundle.detector is not None, str(args.bundle), "a bundle with a detector", "one without")
    things = {x.name: x for x in bundle.objects}
    images = defaultdict(list)
    for x in chosen(args, [x.object_id for x in bundle.objects]):
        images[x.scene_id, x.im_id].append(x)
    settings = play_back.given(args.set)
    output = play_back.new_folder(args.output, FILES)
    print(f"{len(images)} photographs of {len(things)} objects through {NODE}; starting the node …", flush=True)
    parameters = {"bundle": args.bundle.resolve(), "window_source": "own", **settings}
    groups = list(images.values())
    rows = play_back.session(
        NODE,
        parameters,
        INPUTS,
        OUTPUTS,
        groups[0][0].camera,
        output,
        lambda p: play(p, groups, things, args.rate, args.timeout),
    )
    write_results(output / "results.csv", [x for row in rows for x in row.results])
    present(COLUMNS, rows, summary(rows), output, "images.csv", args.rate, args.every)
    answers = f"{sum(row.answered for row in rows)} answers to {len(rows)} images, no pose among them"
    expect(any(row.errors for row in rows), f"{output / 'node.log'}", "poses", answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None that the others have not."""
