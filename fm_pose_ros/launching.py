"""What the launch files share. A launch file declares its arguments and topics; `PoseLaunch` makes the node of them,
and RViz if wanted."""

import os
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = get_package_share_directory("fm_pose_ros")
OUTPUTS = ("markers", "overlay")  # what the RViz configurations show

Arguments = Mapping[str, tuple[str, str]]  # name: default, description

INPUTS: Arguments = {
    "detections": ("detections_2d", "Topic of the 2D detections (vision_msgs/Detection2DArray)."),
    "log_level": ("info", "Of the node: debug, info, warn, error or fatal."),
    "respawn": ("false", "Start the node anew, after two seconds, if it ends."),
    "use_sim_time": ("", "Take the time from /clock (simulation, bags): true or false. Empty: as params_file says."),
    "rviz": ("false", "Start RViz too."),
}


RESPAWN_DELAY = 2.0  # seconds
NUMBERS = ("max_instances", "mirror", "views")  # arguments that are no texts


def parameter(text: str) -> tuple[str, str]:
    """An argument that has the name of a parameter of the node, and is given to it unless it is empty."""
    return "", f"{text} Empty: as params_file says."


def params_file(name: str) -> tuple[str, str]:
    """The argument `params_file`, by default `name` in the package's config."""
    return os.path.join(SHARE, "config", name), "YAML file with the node's parameters."


@dataclass(frozen=True)
class PoseLaunch:
    """A launch file. name: object_pose for object_pose_node, config/object_pose.rviz, … bundle: the default one.
    arguments: what can be said to it. parameters: those of them that are the node's parameters. topic: the node's image
    topic; image: the argument that remaps it.
    """

    name: str
    bundle: str
    topic: str
    image: str
    arguments: Arguments
    parameters: tuple[str, ...] = ()

    def description(self) -> LaunchDescription:
        """What `ros2 launch` asks for."""
        declared = [
            DeclareLaunchArgument(name, default_value=default, description=text)
            for name, (default, text) in self.arguments.items()
        ]
        return LaunchDescription([*declared, OpaqueFunction(function=self._nodes)])

    def _nodes(self, context: LaunchContext) -> list[Action]:
        values = {name: LaunchConfiguration(name).perform(context) for name in self.arguments}
        if not os.path.isfile(values["params_file"]):
            raise RuntimeError(f"params_file: expected a YAML file, got {values['params_file']!r}, which is none")
        time = {"use_sim_time": _flag(values, "use_sim_time")} if values["use_sim_time"] else {}
        actions: list[Action] = [self._pose_node(values, time)]
        if _flag(values, "rviz"):
            # What PushRosNamespace has put around this launch file stands before its own namespace.
            pushed = context.launch_configurations.get("ros_namespace", "")
            actions.append(self._rviz(values, time, posixpath.join("/", pushed, values["namespace"])))
        return actions

    def _pose_node(self, values: dict[str, str], time: dict[str, bool]) -> Action:
        # The last one wins as long as all have the same key, /** as in the file; hence no `name`, which would change
        # launch's key.
        own = {name: _typed(name, values[name]) for name in self.parameters if values[name]} | time
        if values["bundle"]:
            own["bundle"] = values["bundle"]
        _expect_obeyed(own, values["params_file"], f"{self.name}_node")
        image = values[self.image]
        camera_info = values["camera_info"] or posixpath.join(posixpath.dirname(image), "camera_info")
        return Node(
            package="fm_pose_ros",
            executable=f"{self.name}_node",
            namespace=values["namespace"],
            parameters=[{"bundle": self.bundle}, values["params_file"], *([own] if own else [])],
            remappings=[(self.topic, image), ("camera_info", camera_info), ("detections_2d", values["detections"])],
            ros_arguments=["--log-level", values["log_level"]],
            respawn=_flag(values, "respawn"),
            respawn_delay=RESPAWN_DELAY,
            output="screen",
        )

    def _rviz(self, values: dict[str, str], time: dict[str, bool], namespace: str) -> Action:
        try:
            get_package_prefix("rviz2")
        except PackageNotFoundError:
            return LogInfo(msg="rviz: expected the package rviz2, got none installed; the node runs without it")
        home = posixpath.join(namespace, f"{self.name}_node")
        shown = os.path.join(SHARE, "config", f"{self.name}.rviz")
        return Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", shown, "-f", values["fixed_frame"]],
            parameters=[time] if time else [],
            remappings=[(f"/{self.name}_node/{topic}", f"{home}/{topic}") for topic in OUTPUTS],
        )


def _expect_obeyed(arguments: Collection[str], file: str, node: str) -> None:
    """Raise RuntimeError for an argument that a section of the node's own in the parameter file would overrule: ROS
    takes that before any section /**, in which the launch's parameters are."""
    with open(file, encoding="utf-8") as stream:
        sections = yaml.safe_load(stream)
    for key, section in sections.items() if isinstance(sections, dict) else ():
        own = section.get("ros__parameters") if isinstance(section, dict) else None
        if str(key).rsplit("/", 1)[-1] == node and isinstance(own, dict):
            both = sorted(own.keys() & set(arguments))
            if both:
                raise RuntimeError(
                    f"{both[0]}: expected it as an argument or under {key} in {file}, got both; the file's would win"
                )


def _typed(name: str, text: str) -> Any:
    """A number or a flag, or a text; names are texts, whatever they look like."""
    return yaml.safe_load(text) if name in NUMBERS else ParameterValue(text, value_type=str)


def _flag(values: Mapping[str, str], name: str) -> bool:
    """Of an argument that is true or false."""
    text = values[name].lower()
    if text not in ("true", "false", "1", "0"):
        raise RuntimeError(f"{name}: expected true or false, got {values[name]!r}")
    return text in ("true", "1")
