"""With the standard packages, where they are installed (on a robot, from apt): the node uses them, and gives the same
answers.

Without them, as with ROS 2 from PyPI, these tests are skipped, and all the others run on the equivalents in compat.py.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from camera_rig import CAMERA, FRAME, image_msg
from test_object_pose_node import HERE, U, V, matrix_of, reference
from toy_bundle import toy_image

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import exp_so3, quaternion_from_rotation, rotation_from_quaternion, transform
from fm_pose_ros import compat
from fm_pose_ros.conversions import image_to_rgb

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def standard(name: str) -> ModuleType:
    """The module, or skip the test."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"the standard package {name} cannot be used here: {error}")


@pytest.fixture
def tf2_ros() -> ModuleType:
    return standard("tf2_ros")


@pytest.fixture
def tf_transformations() -> ModuleType:
    return standard("tf_transformations")


@pytest.fixture
def cv_bridge() -> ModuleType:
    standard("cv_bridge.boost.cv_bridge_boost")
    module = standard("cv_bridge")
    if compat._built_for_numpy_1(module.CvBridge):
        pytest.skip(
            f"the standard package cv_bridge cannot be used here: it was built for numpy 1, not {np.__version__}"
        )
    return module


def image_of_16_bits(pixels: np.ndarray, encoding: str, *, big_endian: bool = False, **more: Any):
    """pixels: (H, W) or (H, W, C) uint8, of which 0 to 255 become 0 to 65535."""
    data = (pixels.astype(np.uint16) * 257).astype(">u2" if big_endian else "<u2")
    msg = image_msg(data.reshape(len(data), -1).view(np.uint8), encoding=encoding, **more)
    msg.width, msg.is_bigendian = pixels.shape[1], int(big_endian)
    return msg


def test_a_real_tf_buffer_finds_the_object_at_the_images_stamp(rig, toy_bundle, tf2_ros):
    from geometry_msgs.msg import TransformStamped
    from rclpy.time import Time

    assert compat.TransformBroadcaster is tf2_ros.TransformBroadcaster
    r = rig(("pose",), **HERE)
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, r.peer)
    fixed = TransformStamped(child_frame_id=FRAME)
    fixed.header.frame_id, fixed.transform.translation.z = "base", 1.5
    tf2_ros.StaticTransformBroadcaster(r.peer).sendTransform(fixed)
    r.wait(
        lambda: listener.tf_sub.get_publisher_count() and r.node.transforms.pub_tf.get_subscription_count() >= 2,
        "the TF listener",
    )
    r.send_info()

    first = r.send(image_msg(toy_image(CAMERA, U, V), 12.25), "pose")
    second = r.send(image_msg(toy_image(CAMERA, U + 4, V), 12.75), "pose")
    assert first.pose != second.pose
    for pose in (first, second):
        stamp = Time.from_msg(pose.header.stamp)
        r.wait(lambda s=stamp: buffer.can_transform(FRAME, "toy_box", s), "the transform")
        found = buffer.lookup_transform(FRAME, "toy_box", stamp)
        assert (found.header, found.child_frame_id) == (pose.header, "toy_box")
        np.testing.assert_allclose(matrix_of(as_pose(found)), matrix_of(pose.pose), atol=1e-9)
    np.testing.assert_allclose(matrix_of(first.pose), reference(toy_bundle).T_camera_object, atol=1e-9)

    r.wait(lambda: buffer.can_transform("base", "toy_box", stamp), "the transform from base")
    expected = transform(np.eye(3), np.array([0, 0, 1.5])) @ matrix_of(second.pose)
    np.testing.assert_allclose(
        matrix_of(as_pose(buffer.lookup_transform("base", "toy_box", stamp))), expected, atol=1e-9
    )
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform(FRAME, "toy_box", Time(seconds=13))
    assert r.warnings() == []


def as_pose(stamped):
    """TransformStamped -> Pose."""
    from geometry_msgs.msg import Point, Pose

    t = stamped.transform.translation
    return Pose(position=Point(x=t.x, y=t.y, z=t.z), orientation=stamped.transform.rotation)


def test_quaternions_of_tf_transformations_are_the_cores(tf_transformations):
    assert compat.quaternion_from_matrix is tf_transformations.quaternion_from_matrix
    random = np.random.default_rng(5).normal(size=(200, 3))
    half_turns = np.pi * np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3)) / np.sqrt(3)])
    for vector in [np.zeros(3), *random, *half_turns]:
        R = exp_so3(vector)
        q = compat.quaternion(R)
        np.testing.assert_allclose(rotation_from_quaternion(q), R, atol=1e-9)
        assert abs(q @ quaternion_from_rotation(R)) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(tf_transformations.quaternion_matrix(q), transform(R, np.zeros(3)), atol=1e-9)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 2, 5, 16])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16"])
def test_16_bits_per_colour_come_through_cv_bridge(cv_bridge, encoding, padding, big_endian):
    data = PIXELS if encoding.startswith("rgb") else PIXELS[..., ::-1]
    if "a" in encoding:
        data = np.dstack([data, np.full((6, 8), 77, np.uint8)])
    rgb = image_to_rgb(image_of_16_bits(data, encoding, stamp=0.0, padding=padding, big_endian=big_endian))
    np.testing.assert_array_equal(rgb, PIXELS)
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous


@pytest.mark.parametrize("padding", [0, 3])
def test_16_bits_of_grey_come_through_cv_bridge(cv_bridge, padding):
    rgb = image_to_rgb(image_of_16_bits(PIXELS[..., 0], "mono16", stamp=0.0, padding=padding))
    np.testing.assert_array_equal(rgb, PIXELS[..., [0, 0, 0]])


@pytest.mark.parametrize("encoding", ["bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"])
def test_bayer_of_16_bits_comes_through_cv_bridge(cv_bridge, encoding):
    color = {"r": 200, "g": 120, "b": 40}
    pattern = np.array([color[letter] for letter in encoding[6:10]], np.uint8).reshape(2, 2)
    rgb = image_to_rgb(image_of_16_bits(np.tile(pattern, (4, 4)), encoding, stamp=0.0))
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to(np.uint8([200, 120, 40]), (4, 4, 3)))


@pytest.mark.parametrize("encoding", ["nv12", "8UC3", "32FC1", "klingon8"])
def test_what_cv_bridge_cannot_convert_is_named(cv_bridge, encoding):
    with pytest.raises(
        InputError, match=rf"image\.encoding: .*got '{encoding}', and cv_bridge cannot convert it \(.*{encoding}"
    ):
        image_to_rgb(image_msg(PIXELS, 0.0, encoding))


def test_the_node_takes_an_image_through_cv_bridge(rig, toy_bundle, cv_bridge):
    r = rig(**HERE)
    r.send_info()
    pixels = toy_image(CAMERA, U, V)
    for stamp, msg in enumerate(
        [image_of_16_bits(pixels, "rgb16", stamp=0.0), image_of_16_bits(pixels[..., ::-1], "bgr16", stamp=1.0)]
    ):
        (detection,) = r.send(msg).detections
        assert detection.header.stamp.sec == stamp
        np.testing.assert_allclose(
            matrix_of(detection.results[0].pose.pose), reference(toy_bundle).T_camera_object, atol=1e-9
        )
    assert r.warnings() == []


# What keeps cv_bridge from harm, shown with a stand-in


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Iterator[Path]:
    """A cv_bridge that only complains -> the path of its binary, which isn't there yet."""
    source = tmp_path / "cv_bridge" / "__init__.py"
    (source.parent / "boost").mkdir(parents=True)
    source.write_text("class CvBridge:\n    def imgmsg_to_cv2(self, *_, **__):\n        raise AssertionError('used')\n")
    for name in [name for name in sys.modules if name.startswith("cv_bridge")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield source.parent / "boost" / "cv_bridge_boost.so"
    sys.modules.pop("cv_bridge", None)


def test_wrong_sizes_never_reach_cv_bridge(stand_in):
    msg = image_of_16_bits(PIXELS, "rgb16", stamp=0.0)
    msg.width = 9
    with pytest.raises(InputError, match=r"image\.step: expected at least 54 bytes for 9 pixels of rgb16, got 48"):
        image_to_rgb(msg)
    msg.width, msg.height = 8, 5
    with pytest.raises(InputError, match=r"image\.data: expected 240 bytes \(step x height\), got 288"):
        image_to_rgb(msg)


@pytest.mark.parametrize(
    ("binary", "numpy", "text"),
    [
        (b"numpy.core._multiarray_umath", "2.2.6", r"be used \(it was built for numpy 1 .* numpy 2\.2\.6\)"),
        (b"numpy.core._multiarray_umath", "1.26.4", r"convert it \(used\)"),
        (b"numpy._core._multiarray_umath", "2.2.6", r"convert it \(used\)"),
    ],
)
def test_a_cv_bridge_for_another_numpy_is_left_alone(stand_in, monkeypatch, binary, numpy, text):
    """It would end the process."""
    stand_in.write_bytes(binary)
    monkeypatch.setattr(np, "__version__", numpy)
    with pytest.raises(InputError, match=rf"'rgb16', and cv_bridge cannot {text}"):
        image_to_rgb(image_of_16_bits(PIXELS, "rgb16", stamp=0.0))
