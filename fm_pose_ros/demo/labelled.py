"""What the demos with objects share: labelled photographs of a dataset, and the poses that a node finds in them."""

import argparse
import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from geometry_msgs.msg import Pose
from sensor_msgs.msg import CompressedImage

from fm_pose_core.errors import expect
from fm_pose_core.files import Frames
from fm_pose_core.geometry import Array, rotation_from_quaternion, transform
from fm_pose_core.objects.bop import BopDataset, Instance
from fm_pose_core.objects.metrics import ADD_THRESHOLD, PROJECTION_THRESHOLD, PoseErrors


def chosen(args: argparse.Namespace, object_ids: Sequence[int]) -> list[Instance]:
    """Of these objects in the frames that were asked for. Raises InputError if there are none."""
    instances = BopDataset(args.sequence).instances(args.split, object_ids)
    if args.frames:
        frames = Frames.parse(args.frames).of((x.scene_id, x.im_id) for x in instances)
        instances = [x for x in instances if (x.scene_id, x.im_id) in frames]
    ids = ", ".join(map(str, object_ids))
    expect(bool(instances), f"{args.sequence}, split {args.split}", f"frames with object {ids}", "none")
    return instances


def recorded(path: Path) -> CompressedImage:
    """A photograph for the bag, as its file is."""
    message = CompressedImage(format="png" if path.suffix == ".png" else "jpeg")
    message.data = array.array("B", path.read_bytes())
    return message


def matrix(pose: Pose) -> Array:
    """(4, 4)."""
    p, q = pose.position, pose.orientation
    return transform(rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([p.x, p.y, p.z]))


def shares(errors: Sequence[PoseErrors], of: int, limit: str = "") -> list[str]:
    """Lines of the summary: how many poses are good, among so many that could be. limit: of ADD(-S)."""
    projected, close = sum(e.projection_correct for e in errors), sum(e.add_correct for e in errors)
    return [
        f"2D projection < {PROJECTION_THRESHOLD:.0f} px         {100.0 * projected / max(1, of):5.1f} %",
        f"ADD(-S) < {100 * ADD_THRESHOLD:.0f} % of diameter  {100.0 * close / max(1, of):5.1f} %{limit}",
    ]
