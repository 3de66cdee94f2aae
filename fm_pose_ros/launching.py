"""What the launch files share. A launch file declares its arguments and topics; `PoseLaunch` makes the node of them,
and RViz if wanted."""

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = get_package_share_directory("fm_pose_ros")
OUTPUTS = ("markers", "overlay")  # what the RViz configurations show

Arguments = Mapping[str, tuple[str, str]]  # name: default, description

INPUTS: Arguments = {
    "detections": ("detections_2d", "Topic of the 2D detections (vision_msgs/Detection2DArray)."),
    "use_sim_time": ("false", "Take the time from /clock (simulation, bags)."),
    "rviz": ("false", "Start RViz too."),
}


def params_file(name: str) -> tuple[str, str]:
    """The argument `params_file`, by default `name` in the package's config."""
    return os.path.join(SHARE, "config", name), "YAML file with the node's parameters."


def folders(bundle: str) -> str:
    """Names become folders below the package's models; what has a slash is a folder already."""
    return ":".join(part if "/" in part else os.path.join(SHARE, "models", part) for part in bundle.split(":") if part)


@dataclass(frozen=True)
class PoseLaunch:
    """A launch file. name: object_pose for object_pose_node, config/object_pose.rviz, … bundle: the default one.
    arguments: what can be said to it. topic: the node's image topic; image: the argument that remaps it.
    """

    name: str
    bundle: str
    topic: str
    image: str
    arguments: Arguments

    def description(self) -> LaunchDescription:
        """What `ros2 launch` asks for."""
        declared = [
            DeclareLaunchArgument(name, default_value=default, description=text)
            for name, (default, text) in self.arguments.items()
        ]
        return LaunchDescription([*declared, OpaqueFunction(function=self._nodes)])

    def _nodes(self, context: LaunchContext) -> list[Node]:
        values = {name: LaunchConfiguration(name).perform(context) for name in self.arguments}
        time = {"use_sim_time": values["use_sim_time"].lower() in ("true", "1")}
        return [self._pose_node(values, time), self._rviz(values, time)]

    def _pose_node(self, values: dict[str, str], time: dict[str, bool]) -> Node:
        # The last one wins as long as all have the same key, /** as in the file; hence no `name`, which would change
        # launch's key.
        parameters = [{"bundle": folders(self.bundle)}, values["params_file"], time]
        if values["bundle"]:
            parameters.append({"bundle": folders(values["bundle"])})
        image = values[self.image]
        camera_info = values["camera_info"] or posixpath.join(posixpath.dirname(image), "camera_info")
        return Node(
            package="fm_pose_ros",
            executable=f"{self.name}_node",
            namespace=values["namespace"],
            parameters=parameters,
            remappings=[(self.topic, image), ("camera_info", camera_info), ("detections_2d", values["detections"])],
            output="screen",
        )

    def _rviz(self, values: dict[str, str], time: dict[str, bool]) -> Node:
        home = posixpath.join("/", values["namespace"], f"{self.name}_node")
        shown = os.path.join(SHARE, "config", f"{self.name}.rviz")
        return Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", shown, "-f", values["fixed_frame"]],
            parameters=[time],
            remappings=[(f"/{self.name}_node/{topic}", f"{home}/{topic}") for topic in OUTPUTS],
            condition=IfCondition(values["rviz"]),
        )
