"""The one module that knows which ROS Python packages are installed.

On a robot tf2_ros, tf_transformations and cv_bridge come from the distribution and are used. ROS 2 from PyPI has none
of them; the minimal equivalents here publish the same messages with the same QoS.
"""

import array
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array, quaternion_from_rotation, transform

if TYPE_CHECKING:
    from rclpy.node import Node

# What cv_bridge turns into RGB and the direct path doesn't know: 16 bits per channel.
_CHANNELS_OF_16_BITS = {"mono16": 1, "rgb16": 3, "bgr16": 3, "rgba16": 4, "bgra16": 4}
_CHANNELS_OF_16_BITS |= {f"bayer_{pattern}16": 1 for pattern in ("rggb", "bggr", "gbrg", "grbg")}

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


def decode_with_cv_bridge(msg: Image) -> NDArray[np.uint8]:
    """An Image of a rare encoding -> (H, W, 3) uint8 RGB. cv_bridge is imported when the first one arrives, because its
    binary is tied to one numpy version and must not keep the node from starting.

    Raises InputError if cv_bridge isn't installed or cannot convert.
    """
    problem = f"image.encoding: expected one that is read directly, got {msg.encoding!r}, and cv_bridge cannot"
    try:
        from cv_bridge import CvBridge
    except Exception as error:
        raise InputError(f"{problem} be used ({error})") from None
    if _built_for_numpy_1(CvBridge):
        raise InputError(f"{problem} be used (it was built for numpy 1 and crashes beside numpy {np.__version__})")
    msg = _without_padding(msg)
    try:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, desired_encoding="rgb8"), dtype=np.uint8)
    except Exception as error:
        raise InputError(f"{problem} convert it ({error})") from None


def _built_for_numpy_1(bridge: type) -> bool:
    """Is cv_bridge's binary one for numpy 1, beside numpy 2? It imports, but ends the process at the first conversion.

    Only a binary that was built for numpy 2 knows numpy._core.
    """
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return False
    binaries = Path(inspect.getfile(bridge)).parent.glob("boost/cv_bridge_boost*")
    return any(b"numpy._core" not in binary.read_bytes() for binary in binaries)


def _without_padding(msg: Image) -> Image:
    """The image without padding behind its rows. cv_bridge takes padding for pixels unless it is a whole number of
    them, and never looks at the sizes.
    """
    if msg.encoding not in _CHANNELS_OF_16_BITS:
        return msg
    row = 2 * _CHANNELS_OF_16_BITS[msg.encoding] * msg.width
    expect(msg.step >= row, "image.step", f"at least {row} bytes for {msg.width} pixels of {msg.encoding}", msg.step)
    expect(
        len(msg.data) == msg.step * msg.height,
        "image.data",
        f"{msg.step * msg.height} bytes (step x height)",
        len(msg.data),
    )
    if msg.step == row:
        return msg
    pixels = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)[:, :row]
    return Image(
        header=msg.header,
        height=msg.height,
        width=msg.width,
        encoding=msg.encoding,
        is_bigendian=msg.is_bigendian,
        step=row,
        data=array.array("B", pixels.tobytes()),
    )
