"""The one module that knows which ROS Python packages are installed.

On a robot tf2_ros, tf_transformations and cv_bridge come from the distribution and are used. ROS 2 from PyPI has none of
them; the minimal equivalents here publish the same messages with the same QoS.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, quaternion_from_rotation, transform

if TYPE_CHECKING:
    from rclpy.node import Node
    from sensor_msgs.msg import Image

try:
    from tf2_ros import TransformBroadcaster
except ImportError:

    class TransformBroadcaster:  # type: ignore[no-redef]
        """Publishes transforms on /tf as tf2_ros.TransformBroadcaster does: reliable, volatile, depth 100."""

        def __init__(self, node: "Node") -> None:
            from rclpy.qos import QoSProfile
            from tf2_msgs.msg import TFMessage

            self._message = TFMessage
            self.pub_tf = node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))

        def sendTransform(self, transform: TransformStamped | list[TransformStamped]) -> None:
            """Publish one transform or several in one message."""
            transforms = transform if isinstance(transform, list) else [transform]
            self.pub_tf.publish(self._message(transforms=transforms))


try:
    from tf_transformations import quaternion_from_matrix
except Exception:  # ImportError, or the AttributeError of a transforms3d that is older than the installed numpy
    quaternion_from_matrix = None


def destroy_broadcaster(node: "Node", broadcaster: Any) -> None:
    """Remove the broadcaster's publisher from its node. tf2_ros has no function for it."""
    node.destroy_publisher(broadcaster.pub_tf)


def quaternion(R: Array) -> Array:
    """(3, 3) rotation -> unit quaternion (4,) in ROS order x, y, z, w."""
    if quaternion_from_matrix is None:
        return quaternion_from_rotation(R)
    return np.asarray(quaternion_from_matrix(transform(R, np.zeros(3))), dtype=np.float64)


def decode_with_cv_bridge(msg: "Image") -> NDArray[np.uint8]:
    """An Image of a rare encoding -> (H, W, 3) uint8 RGB. cv_bridge is imported when the first one arrives, because its
    binary is tied to one numpy version and must not keep the node from starting.

    Raises InputError if cv_bridge isn't installed or cannot convert.
    """
    try:
        from cv_bridge import CvBridge
    except Exception as error:
        got = f"{msg.encoding!r}, and cv_bridge cannot be used ({error})"
        raise InputError(f"image.encoding: expected one that is read directly, got {got}") from None
    try:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, desired_encoding="rgb8"), dtype=np.uint8)
    except Exception as error:
        raise InputError(f"image.encoding: expected one that converts to rgb8, got {msg.encoding!r} ({error})") from None
