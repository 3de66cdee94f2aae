"""The demo's MCAP bag."""

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore


class Bag:
    """An MCAP bag (rosbag2 format) that knows the definitions of all its messages, ours and those of vision_msgs
    included. Topics are written without `namespace`, so that the nodes' RViz configurations show the bag as it is."""

    def __init__(self, path: Path, namespace: str) -> None:
        self._namespace = namespace
        self._types = get_typestore(Stores.ROS2_JAZZY)
        for package in ("vision_msgs", "fm_pose_ros"):
            for file in sorted(Path(get_package_share_directory(package), "msg").glob("*.msg")):
                self._types.register(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, msg: Any, when: int) -> None:
        """Add a message that was sent or received at `when` (nanoseconds)."""
        topic = topic.removeprefix(self._namespace)
        if topic not in self._connections:
            package, kind = type(msg).__module__.split(".")[0], type(msg).__name__
            self._connections[topic] = self._writer.add_connection(
                topic, f"{package}/msg/{kind}", typestore=self._types
            )
        self._writer.write(self._connections[topic], when, serialize_message(msg))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
