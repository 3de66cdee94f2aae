"""Malformed messages, thousands of each kind: they are read as something that can be used, or InputError is raised."""

import array
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
cv2 = pytest.importorskip("cv2")

from camera_rig import CAMERA, detections_msg, image_msg, info_msg
from malformed import changed_bytes, limited
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fm_pose_core.errors import InputError
from fm_pose_ros.conversions import (
    camera_from_info,
    compressed_depth_to_metres,
    compressed_to_rgb,
    depth_to_metres,
    detections_from_msg,
    image_to_rgb,
)

Rng = np.random.Generator
CASES = 2000
FLOATS = [0.0, -1.0, 1e-12, 0.5, 300.0, 1e9, 1e155, -1e308, float("nan"), float("inf"), -float("inf")]
SIZES = [0, 1, 2, 7, 319, 320, 321, 4000, 2**16, 2**31, 2**32 - 1]
ENCODINGS = [
    "rgb8",
    "bgr8",
    "mono8",
    "rgba8",
    "yuv422",
    "bayer_rggb8",
    "mono16",
    "16UC1",
    "32FC1",
    "64FC1",
    "",
    "x" * 99,
]
PIXELS = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
GREY = (PIXELS[..., 0].astype(np.uint16) * 16)[:60, :80]


def pick(rng: Rng, values: list[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def image(rng: Rng) -> Image:
    msg = image_msg(PIXELS, 1.0) if rng.uniform() < 0.7 else Image(encoding="16UC1", width=80, height=60, step=160)
    if not msg.data:
        msg.data = array.array("B", GREY.tobytes())
    for name in ("width", "height", "step"):
        if rng.uniform() < 0.25:
            setattr(msg, name, pick(rng, SIZES))
    if rng.uniform() < 0.4:
        msg.encoding = pick(rng, ENCODINGS)
    if rng.uniform() < 0.3:
        msg.data = msg.data[: int(rng.integers(len(msg.data) + 1))]
    msg.is_bigendian = int(pick(rng, [0, 1, 255]))
    return msg


def compressed(rng: Rng) -> CompressedImage:
    kind = pick(rng, [".png", ".jpg", ".webp", ".bmp"])
    data = cv2.imencode(kind, PIXELS[:24, :32])[1].tobytes()
    return CompressedImage(format=pick(rng, ["jpeg", "png", ""]), data=array.array("B", changed_bytes(data, rng)))


def compressed_depth(rng: Rng) -> CompressedImage:
    head = struct.pack("<iff", 0, *(float(np.float32(np.clip(pick(rng, FLOATS), -1e38, 1e38))) for _ in range(2)))
    data = head + cv2.imencode(".png", GREY)[1].tobytes()
    data = changed_bytes(data, rng) if rng.uniform() < 0.6 else data
    kind = pick(rng, ["16UC1; compressedDepth png", "32FC1; compressedDepth png", "compressedDepth", "png"])
    return CompressedImage(format=kind, data=array.array("B", data))


def info(rng: Rng) -> CameraInfo:
    msg = info_msg()
    for name in ("k", "p"):
        numbers = list(getattr(msg, name))
        for _ in range(int(rng.integers(3))):
            numbers[int(rng.integers(len(numbers)))] = pick(rng, FLOATS)
        setattr(msg, name, numbers)
    msg.d = [pick(rng, FLOATS) for _ in range(pick(rng, [0, 0, 4, 5, 8, 1000]))]
    msg.distortion_model = pick(rng, ["plumb_bob", "rational_polynomial", "equidistant", "", "klingon"])
    for part, names in ((msg, ("width", "height")), (msg.roi, ("x_offset", "y_offset", "width", "height"))):
        for name in names:
            if rng.uniform() < 0.15:
                setattr(part, name, pick(rng, SIZES))
    msg.binning_x, msg.binning_y = (pick(rng, [0, 0, 1, 2, 2**32 - 1]) for _ in range(2))
    return msg


def read_camera(msg: CameraInfo) -> None:
    """A camera through which a point before it is seen, and a pixel looked along."""
    for rectified in (False, True):
        try:
            camera = camera_from_info(msg, rectified)
        except InputError as error:
            assert len(str(error)) < 2000
            continue
        with np.errstate(all="ignore"):  # a lens of such numbers may bend rays to infinity, but must not hang or crash
            camera.rays(np.array([[camera.width / 2, camera.height / 2]]))
            camera.pixels(np.array([[0.0, 0.0, 1.0]]))


def read_depth(read: Callable[[Any], np.ndarray]) -> Callable[[Any], None]:
    def checked(msg: Any) -> None:
        depth = read(msg)
        assert depth.dtype == np.float32 and np.isfinite(depth).all() and (depth >= 0).all()

    return checked


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (image, image_to_rgb),
        (image, read_depth(depth_to_metres)),
        (compressed, compressed_to_rgb),
        (compressed_depth, read_depth(compressed_depth_to_metres)),
        (info, read_camera),
    ],
    ids=["image", "depth", "compressed", "compressed depth", "camera_info"],
)
def test_malformed_messages_are_read_or_refused(make: Callable[[Rng], Any], read: Callable[[Any], Any]) -> None:
    refused = 0
    for k in range(CASES):
        msg = make(np.random.default_rng(k))
        try:
            with limited(2.0):
                read(msg)
        except InputError as error:
            refused += 1
            assert len(str(error)) < 2000, k
        except Exception as error:
            pytest.fail(f"case {k}: {type(error).__name__}: {error}")
    assert refused < CASES


def test_malformed_detections_cost_themselves_alone() -> None:
    for k in range(CASES):
        rng = np.random.default_rng(k)
        numbers = [[pick(rng, FLOATS) for _ in range(5)] for _ in range(3)]
        msg = detections_msg(
            1.0, *((f"c{i}", n[0], n[1], n[2]) for i, n in enumerate(numbers)), ("good", 0.5, 9.0, 8.0)
        )
        for item, n in zip(msg.detections, numbers, strict=False):
            item.bbox.size_x, item.bbox.size_y = n[3], n[4]
        refused: list[InputError] = []
        found = detections_from_msg(msg, refused.append)
        finite = [bool(np.isfinite(n).all()) for n in numbers]
        assert len(found) == 1 + sum(finite) and len(refused) == 3 - sum(finite)
        assert (found[-1].u, found[-1].v, CAMERA.width) == (9.0, 8.0, 320)
