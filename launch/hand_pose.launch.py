"""Start hand_pose_node. `ros2 launch fm_pose_ros hand_pose.launch.py --show-args` lists the arguments.

ros2 launch fm_pose_ros hand_pose.launch.py depth:=/camera/camera/depth/image_rect_raw rviz:=true
"""

from launch import LaunchDescription

from fm_pose_ros.launching import INPUTS, PoseLaunch, parameter, params_file

PARAMETERS = {
    "window_source": parameter("Where to look: nearest, tracking or detections."),
    "image_transport": parameter("raw or compressed."),
    "views": parameter("Views of each cube, whose answers are averaged: 1 is the fastest, 4 the default."),
    "mirror": parameter("true for left hands, with a bundle of right ones."),
    "tf_prefix": parameter("In front of the joints' TF frames."),
}

ARGUMENTS = {
    "bundle": ("", "Bundle: a folder, or a name in the package's models. Empty: as params_file says, else hand."),
    "params_file": params_file("hand_pose.yaml"),
    "namespace": ("", "Namespace of the node."),
    "depth": ("depth/image_rect_raw", "Depth topic; with image_transport compressed, without its /compressedDepth."),
    "camera_info": ("", "camera_info topic; empty: beside the depth topic."),
    **PARAMETERS,
    **INPUTS,
    "fixed_frame": ("camera_depth_optical_frame", "RViz's fixed frame: the camera's, or any that TF connects with it."),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    return PoseLaunch("hand_pose", "hand", "depth/image_rect_raw", "depth", ARGUMENTS, tuple(PARAMETERS)).description()
