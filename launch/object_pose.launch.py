"""Start object_pose_node. `ros2 launch fm_pose_ros object_pose.launch.py --show-args` lists the arguments.

ros2 launch fm_pose_ros object_pose.launch.py bundle:=duck image:=/camera/camera/color/image_raw rviz:=true
"""

from launch import LaunchDescription

from fm_pose_ros.launching import INPUTS, PoseLaunch, parameter, params_file

PARAMETERS = {
    "window_source": parameter("Where to look: auto, own, detections, fixed or tracking."),
    "image_transport": parameter("raw or compressed."),
    "views": parameter("Views of each window, whose answers are averaged: 1 is the fastest, 4 the default."),
    "refine": parameter("How poses are refined: none, auto, edges, features or both."),
    "support": parameter("Whether objects stand on one plane, such as a table: auto or none."),
    "max_instances": parameter("Objects of one class in one image, at most."),
    "child_frame": parameter("TF frame of the only object."),
    "tf_prefix": parameter("In front of the objects' TF frames, such as left/: for two cameras."),
}

ARGUMENTS = {
    "bundle": (
        "",
        "Bundle: a folder, or a name in the package's models; several with ':' between. "
        "Empty: as params_file says, else duck.",
    ),
    "params_file": params_file("object_pose.yaml"),
    "namespace": ("", "Namespace of the node."),
    "image": ("image_raw", "Image topic; with image_transport compressed, without its /compressed."),
    "camera_info": ("", "camera_info topic; empty: beside the image topic."),
    **PARAMETERS,
    **INPUTS,
    "fixed_frame": ("camera_optical_frame", "RViz's fixed frame: the camera's, or any that TF connects with it."),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    return PoseLaunch("object_pose", "duck", "image_raw", "image", ARGUMENTS, tuple(PARAMETERS)).description()
