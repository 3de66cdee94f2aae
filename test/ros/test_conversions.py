"""Messages to the core's types and back, without a running node."""

import array
import struct
import sys
from types import ModuleType

import numpy as np
import pytest
from camera_rig import CAMERA, image_msg, info_msg
from sensor_msgs.msg import CompressedImage, Image

import fm_pose_ros.compat as compat
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import exp_so3, rotation_from_quaternion
from fm_pose_core.types import Camera
from fm_pose_ros.conversions import (
    camera_from_info,
    compressed_depth_to_metres,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    rgb_to_image,
)

cv2 = pytest.importorskip("cv2")
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 8, 3)).astype(np.uint8)
ALPHA = np.full((6, 8, 1), 77, np.uint8)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("rgb8", PIXELS),
        ("bgr8", PIXELS[..., ::-1]),
        ("rgba8", np.dstack([PIXELS, ALPHA])),
        ("bgra8", np.dstack([PIXELS[..., ::-1], ALPHA])),
    ],
)
def test_colour_encodings_come_straight_from_the_buffer(encoding, data, padding):
    rgb = image_to_rgb(image_msg(data, 0.0, encoding, padding))
    np.testing.assert_array_equal(rgb, PIXELS)
    assert rgb.flags.c_contiguous


def test_rgb8_is_not_copied():
    msg = image_msg(PIXELS, 0.0)
    assert np.shares_memory(image_to_rgb(msg), np.frombuffer(msg.data, np.uint8))


def test_grey_becomes_three_equal_channels():
    np.testing.assert_array_equal(image_to_rgb(image_msg(PIXELS[..., 0], 0.0, "mono8", 3)), PIXELS[..., [0, 0, 0]])


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_of_usb_cameras(encoding):
    y, u, v = 130, 100, 170  # reddish
    pair = [u, y, v, y] if encoding in ("yuv422", "uyvy") else [y, u, y, v]
    data = np.tile(np.array(pair, np.uint8).reshape(1, 2, 2), (4, 3, 1))
    rgb = image_to_rgb(image_msg(data, 0.0, encoding))
    assert rgb.shape == (4, 6, 3)
    # BT.601, studio range
    expected = 1.164 * (y - 16) + np.array(
        [1.596 * (v - 128), -0.391 * (u - 128) - 0.813 * (v - 128), 2.018 * (u - 128)]
    )
    np.testing.assert_allclose(rgb, np.broadcast_to(expected, rgb.shape), atol=2)


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_bayer_patterns(encoding):
    color = {"r": 200, "g": 120, "b": 40}
    pattern = np.array([color[letter] for letter in encoding[6:10]], np.uint8).reshape(2, 2)
    rgb = image_to_rgb(image_msg(np.tile(pattern, (4, 4)), 0.0, encoding))
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to(np.uint8([200, 120, 40]), (4, 4, 3)))


def test_a_rare_encoding_goes_through_cv_bridge_where_it_is(monkeypatch):
    class CvBridge:
        def imgmsg_to_cv2(self, msg, desired_encoding):
            assert desired_encoding == "rgb8"
            return PIXELS

    module = ModuleType("cv_bridge")
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    np.testing.assert_array_equal(image_to_rgb(image_msg(PIXELS, 0.0, "nv12")), PIXELS)


def test_a_rare_encoding_without_cv_bridge_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(InputError, match=r"'32FC1'.*cv_bridge"):
        image_to_rgb(image_msg(PIXELS, 0.0, "32FC1"))


def test_a_broken_cv_bridge_is_named(monkeypatch):
    class CvBridge:
        def __init__(self):
            raise AttributeError("_ARRAY_API not found")

    module = ModuleType("cv_bridge")
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    with pytest.raises(InputError, match=r"'nv12'.*_ARRAY_API"):
        image_to_rgb(image_msg(PIXELS, 0.0, "nv12"))


def broken(**changes):
    msg = image_msg(PIXELS, 0.0)
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


@pytest.mark.parametrize(
    ("msg", "text"),
    [
        (broken(step=10), r"image\.step: expected at least 24"),
        (broken(step=30), r"image\.data: expected 180 bytes"),
        (broken(height=7), r"image\.data: expected 168 bytes"),
        (broken(data=array.array("B")), r"image\.data: .* got 0"),
        (broken(width=0), r"image: .* got 0x6"),
        (broken(height=0), r"image: .* got 8x0"),
        (broken(encoding=""), r"image\.encoding"),
        (image_msg(PIXELS[:, :7, :2], 0.0, "yuv422"), r"image size: .* got 7x6"),
    ],
)
def test_bad_images_are_named(msg, text):
    with pytest.raises(InputError, match=text):
        image_to_rgb(msg)


def compressed(data: bytes, kind: str = "png"):
    return CompressedImage(format=kind, data=array.array("B", data))


def test_compressed_images():
    png = cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(compressed_to_rgb(compressed(png)), PIXELS)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    jpeg = cv2.imencode(".jpg", smooth[..., ::-1])[1].tobytes()
    np.testing.assert_allclose(compressed_to_rgb(compressed(jpeg, "rgb8; jpeg compressed bgr8")), smooth, atol=3)
    for data in (b"", b"not an image", png[:20]):
        with pytest.raises(InputError, match=r"image\.data"):
            compressed_to_rgb(compressed(data))


def test_a_compressed_image_of_another_size_or_kind_is_refused():
    small, webp = (cv2.imencode(kind, PIXELS)[1].tobytes() for kind in (".png", ".webp"))
    with pytest.raises(InputError, match=r"image\.data: expected 320x240 pixels, got 8x6"):
        compressed_to_rgb(compressed(small), CAMERA)
    with pytest.raises(InputError, match=r"image\.data: expected a picture \(PNG, JPEG\)"):
        compressed_to_rgb(compressed(webp))


def inverse_depth(a: float, b: float):
    """32FC1 as compressed_depth_image_transport writes it: a / (value - b) metres."""
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    header = struct.pack("<iff", 0, a, b)
    return compressed(header + cv2.imencode(".png", values)[1].tobytes(), "32FC1; compressedDepth png")


def test_compressed_inverse_depth():
    depth = compressed_depth_to_metres(inverse_depth(2000.0, 1500.0))
    np.testing.assert_allclose(depth, [[0, 0, 4.0], [2000 / 1500, 0.8, 2000 / 3500]], rtol=1e-6)
    for a, b in ((-1.0, 0.0), (0.0, 0.0), (np.nan, 0.0), (1.0, np.inf)):
        with pytest.raises(InputError, match=r"depth\.data: expected a scale above 0"):
            compressed_depth_to_metres(inverse_depth(a, b))


def test_what_is_no_depth_is_zero():
    values = np.array([[np.nan, np.inf, -1.0, 0.5]], np.float32)
    msg = Image(encoding="32FC1", width=4, height=1, step=16, data=array.array("B", values.tobytes()))
    np.testing.assert_array_equal(depth_to_metres(msg), [[0, 0, 0, 0.5]])


def test_rgb_to_image_and_back():
    msg = rgb_to_image(PIXELS, info_msg().header)
    assert msg.header == info_msg().header
    np.testing.assert_array_equal(image_to_rgb(msg), PIXELS)


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", [0.1, -0.2, 0.001, 0.002, 0.05]),
        ("rational_polynomial", [0.1, -0.2, 0.001, 0.002, 0.05, 0.1, 0.01, 0.001]),
        ("equidistant", [0.05, 0.01, 0.002, -0.001]),
    ],
)
def test_distortion_is_kept(model, d):
    camera = camera_from_info(info_msg(Camera(CAMERA.K, 320, 240, np.array(d), model)))
    assert camera.distortion_model == model
    np.testing.assert_array_equal(camera.distortion, d)


@pytest.mark.parametrize("size", [4, 0])
def test_a_fisheye_without_distortion_coefficients_is_no_pinhole_if_it_says_so(size):
    info = info_msg()
    info.distortion_model, info.d = "equidistant", [0.0] * size
    (pixel,) = camera_from_info(info).pixels(np.array([[0.1, 0.0, 0.2]]))
    angle = np.arctan(0.5) if size else 0.5  # without coefficients there is no model to speak of
    np.testing.assert_allclose(pixel, [160 + 300 * angle, 120], atol=1e-6)
    assert not camera_from_info(info, rectified=True).distortion.size


def test_a_rectified_image_takes_p():
    info = info_msg(Camera(CAMERA.K, 320, 240, np.array([0.1, 0, 0, 0, 0])))
    info.p[0] = info.p[5] = 280.0
    camera = camera_from_info(info, rectified=True)
    assert camera.K[0, 0] == 280.0 and not camera.distortion.size
    assert camera_from_info(info).K[0, 0] == 300.0


def test_an_unknown_model_without_coefficients_is_no_distortion():
    info = info_msg()
    info.distortion_model, info.d = "inverse_brown_conrady", [0.0] * 5
    assert not camera_from_info(info).distortion.size
    info.d = [0.1] * 5
    with pytest.raises(InputError, match=r"camera_info\.distortion_model"):
        camera_from_info(info)


def test_region_of_interest_and_binning():
    info = info_msg()
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 40, 20, 200, 100
    info.binning_x = info.binning_y = 2
    camera = camera_from_info(info)
    assert (camera.width, camera.height) == (100, 50)
    np.testing.assert_allclose(camera.K, [[150, 0, 60], [0, 150, 50], [0, 0, 1]])
    info.roi.width = info.roi.height = info.roi.x_offset = info.roi.y_offset = 0
    assert (camera_from_info(info).width, camera_from_info(info).height) == (160, 120)
    info.roi.x_offset, info.roi.width, info.roi.height = 200, 200, 100
    with pytest.raises(InputError, match=r"camera_info\.roi"):
        camera_from_info(info)


GOOD = [300.0, 0, 160, 0, 300, 120, 0, 0, 1]


@pytest.mark.parametrize(
    "k",
    [
        [0.0] * 9,
        [float("nan")] * 9,
        [*GOOD[:4], float("inf"), *GOOD[5:]],
        [-300.0, *GOOD[1:]],
        [300.0, 5.0, *GOOD[2:]],  # skew
        [*GOOD[:3], 1.0, *GOOD[4:]],
        [*GOOD[:6], 1e-3, *GOOD[7:]],
        [1e-9, *GOOD[1:4], 1e-9, *GOOD[5:]],
        [1e9, *GOOD[1:]],
        [*GOOD[:2], 1e9, *GOOD[3:]],
    ],
)
def test_bad_intrinsics_are_named(k):
    info = info_msg()
    info.k = k
    with pytest.raises(InputError, match=r"camera_info\.[kK]"):
        camera_from_info(info)


def test_an_empty_camera_info_is_named():
    info = info_msg()
    info.width = 0
    with pytest.raises(InputError, match=r"camera_info\.image size"):
        camera_from_info(info)


def test_quaternions_with_and_without_tf_transformations(monkeypatch):
    R = exp_so3(np.array([0.3, -1.2, 2.0]))
    monkeypatch.setattr(compat, "quaternion_from_matrix", None)
    np.testing.assert_allclose(rotation_from_quaternion(compat.quaternion(R)), R, atol=1e-12)
    seen = []
    monkeypatch.setattr(compat, "quaternion_from_matrix", lambda M: seen.append(M) or (0.0, 0.0, 0.0, 1.0))
    np.testing.assert_array_equal(compat.quaternion(R), [0, 0, 0, 1])
    assert seen[0].shape == (4, 4)
