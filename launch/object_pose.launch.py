"""Start object_pose_node. `ros2 launch fm_pose_ros object_pose.launch.py --show-args` lists the arguments.

ros2 launch fm_pose_ros object_pose.launch.py bundle:=duck image:=/camera/camera/color/image_raw rviz:=true
"""

import os
import posixpath

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = get_package_share_directory("fm_pose_ros")
OUTPUTS = ("markers", "overlay")  # what the RViz configuration shows

ARGUMENTS = {
    "bundle": (
        "",
        "Bundle: a folder, or a name in the package's models; several with ':' between. Empty: as params_file says, else duck.",
    ),
    "params_file": (os.path.join(SHARE, "config", "object_pose.yaml"), "YAML file with the node's parameters."),
    "namespace": ("", "Namespace of the node."),
    "image": ("image_raw", "Image topic; with image_transport compressed, without its /compressed."),
    "camera_info": ("", "camera_info topic; empty: beside the image topic."),
    "detections": ("detections_2d", "Topic of the 2D detections (vision_msgs/Detection2DArray)."),
    "use_sim_time": ("false", "Take the time from /clock (simulation, bags)."),
    "rviz": ("false", "Start RViz too."),
    "fixed_frame": ("camera_optical_frame", "RViz's fixed frame: the camera's, or any that TF connects with it."),
}


def folders(bundle: str) -> str:
    """Names become folders below the package's models; what has a slash is a folder already."""
    return ":".join(part if "/" in part else os.path.join(SHARE, "models", part) for part in bundle.split(":") if part)


def nodes(context: LaunchContext) -> list[Node]:
    """The node, and RViz if wanted."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    camera_info = values["camera_info"] or posixpath.join(posixpath.dirname(values["image"]), "camera_info")
    # The last one wins as long as all have the same key, /** as in the file; hence no `name`, which would change
    # launch's key.
    parameters = [
        {"bundle": folders("duck")},
        values["params_file"],
        {"use_sim_time": values["use_sim_time"].lower() in ("true", "1")},
    ]
    if values["bundle"]:
        parameters.append({"bundle": folders(values["bundle"])})
    pose = Node(
        package="fm_pose_ros",
        executable="object_pose_node",
        namespace=values["namespace"],
        parameters=parameters,
        remappings=[
            ("image_raw", values["image"]),
            ("camera_info", camera_info),
            ("detections_2d", values["detections"]),
        ],
        output="screen",
    )
    home = posixpath.join("/", values["namespace"], "object_pose_node")
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", os.path.join(SHARE, "config", "object_pose.rviz"), "-f", values["fixed_frame"]],
        parameters=[{"use_sim_time": values["use_sim_time"].lower() in ("true", "1")}],
        remappings=[(f"/object_pose_node/{topic}", f"{home}/{topic}") for topic in OUTPUTS],
        condition=IfCondition(values["rviz"]),
    )
    return [pose, rviz]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])
