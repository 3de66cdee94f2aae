"""Start hand_pose_node. `ros2 launch fm_pose_ros hand_pose.launch.py --show-args` lists the arguments.

ros2 launch fm_pose_ros hand_pose.launch.py depth:=/camera/camera/depth/image_rect_raw rviz:=true
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
    "bundle": ("", "Bundle: a folder, or a name in the package's models. Empty: as params_file says, else hand."),
    "params_file": (os.path.join(SHARE, "config", "hand_pose.yaml"), "YAML file with the node's parameters."),
    "namespace": ("", "Namespace of the node."),
    "depth": ("depth/image_rect_raw", "Depth topic; with image_transport compressed, without its /compressedDepth."),
    "camera_info": ("", "camera_info topic; empty: beside the depth topic."),
    "detections": ("detections_2d", "Topic of the 2D detections (vision_msgs/Detection2DArray)."),
    "use_sim_time": ("false", "Take the time from /clock (simulation, bags)."),
    "rviz": ("false", "Start RViz too."),
    "fixed_frame": ("camera_depth_optical_frame", "RViz's fixed frame: the camera's, or any that TF connects with it."),
}


def folder(bundle: str) -> str:
    """A name becomes a folder below the package's models; what has a slash is a folder already."""
    return bundle if "/" in bundle else os.path.join(SHARE, "models", bundle)


def nodes(context: LaunchContext) -> list[Node]:
    """The node, and RViz if wanted."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    camera_info = values["camera_info"] or posixpath.join(posixpath.dirname(values["depth"]), "camera_info")
    # The last one wins as long as all have the same key, /** as in the file; hence no `name`, which would change
    # launch's key.
    parameters = [
        {"bundle": folder("hand")},
        values["params_file"],
        {"use_sim_time": values["use_sim_time"].lower() in ("true", "1")},
    ]
    if values["bundle"]:
        parameters.append({"bundle": folder(values["bundle"])})
    pose = Node(
        package="fm_pose_ros",
        executable="hand_pose_node",
        namespace=values["namespace"],
        parameters=parameters,
        remappings=[
            ("depth/image_rect_raw", values["depth"]),
            ("camera_info", camera_info),
            ("detections_2d", values["detections"]),
        ],
        output="screen",
    )
    home = posixpath.join("/", values["namespace"], "hand_pose_node")
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", os.path.join(SHARE, "config", "hand_pose.rviz"), "-f", values["fixed_frame"]],
        parameters=[{"use_sim_time": values["use_sim_time"].lower() in ("true", "1")}],
        remappings=[(f"/hand_pose_node/{topic}", f"{home}/{topic}") for topic in OUTPUTS],
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
