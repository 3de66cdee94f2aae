"""Start an object_pose_node for each of two cameras: a file to copy and change. Each node has a namespace of its own,
and its TF frames a prefix: without, both would send the transform of one frame.

ros2 launch fm_pose_ros two_cameras.launch.py
"""

from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

FILE = PathJoinSubstitution([FindPackageShare("fm_pose_ros"), "launch", "object_pose.launch.py"])
CAMERAS = {
    "left": {"bundle": "lmo", "image": "/left/image_raw"},
    "right": {"bundle": "lmo", "image": "/right/image_raw"},
}


def object_pose(name: str, arguments: dict[str, str]) -> GroupAction:
    """The node of one camera. The group keeps its arguments from the next one."""
    said = {"namespace": name, "tf_prefix": f"{name}/", **arguments}
    return GroupAction([IncludeLaunchDescription(PythonLaunchDescriptionSource(FILE), launch_arguments=said.items())])


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    return LaunchDescription([object_pose(name, arguments) for name, arguments in CAMERAS.items()])
