"""Several pose nodes in one process, for several cameras or bundles: one Python, one set of libraries. Each has a
thread of its own; while one waits for its network, the others work.

    ros2 run fm_pose_ros pose_nodes object_pose_node:left hand_pose_node:gestures --ros-args --params-file nodes.yaml
"""

import argparse
from functools import partial

from rclpy.utilities import remove_ros_args

from fm_pose_ros.hand_pose_node import HandPoseNode
from fm_pose_ros.lifecycle import PoseNode, run_nodes
from fm_pose_ros.object_pose_node import ObjectPoseNode

KINDS: dict[str, type[PoseNode]] = {"object_pose_node": ObjectPoseNode, "hand_pose_node": HandPoseNode}


def asked_for(text: str) -> tuple[str, str]:
    """KIND:NAME."""
    kind, _, name = text.partition(":")
    if kind not in KINDS or not name.isidentifier() or not name.isascii():
        raise argparse.ArgumentTypeError(f"expected KIND:NAME with a kind of {', '.join(KINDS)}, got {text!r}")
    return kind, name


def main(args: list[str] | None = None) -> None:
    """Entry point of the executable."""
    parser = argparse.ArgumentParser("pose_nodes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    text = f"a node of this kind ({', '.join(KINDS)}) with this name, by which parameters and remappings find it"
    parser.add_argument("nodes", nargs="+", type=asked_for, metavar="KIND:NAME", help=text)
    nodes = parser.parse_args(remove_ros_args(args)[1:] if args is None else remove_ros_args(args)).nodes
    names = [name for _, name in nodes]
    if len(set(names)) < len(names):
        parser.error(f"expected different names, got {' '.join(names)}")
    makes = [partial(KINDS[kind], cli_args=["--ros-args", "-r", f"__node:={name}"]) for kind, name in nodes]
    run_nodes(makes, "pose_nodes", args)


if __name__ == "__main__":
    main()
