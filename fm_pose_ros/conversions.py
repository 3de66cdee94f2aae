"""Between ROS messages and the core's types. Everything that goes out carries the header of the image it came from.

Bad messages raise InputError("name: expected …, got …").
"""

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, TransformStamped, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, Detection3D, Detection3DArray, ObjectHypothesisWithPose

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array, apply
from fm_pose_core.pictures import AS_STORED, PNG, decode
from fm_pose_core.types import Camera, Detection, ObjectPose
from fm_pose_ros.compat import decode_with_cv_bridge, quaternion
from fm_pose_ros.msg import ProjectedBox, ProjectedBoxArray

if TYPE_CHECKING:
    from fm_pose_core.objects.bundle import BundledObject

# Encoding: bytes per pixel, and OpenCV's conversion to RGB. OpenCV names a Bayer pattern by its second row and column.
_DIRECT = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
}


@dataclass(frozen=True)
class DetectedObject:
    """One object in one image, as it is published.

    object: which one. number: of its track. frame: TF frame of the object. pose: the estimator's answer.
    T_camera_object: (4, 4) metres, the pose to publish (the estimator's, or a filtered one).
    """

    object: "BundledObject"
    number: int
    frame: str
    pose: ObjectPose
    T_camera_object: Array

    @property
    def track_id(self) -> str:
        """Stable from frame to frame, for as long as the object isn't lost."""
        return f"{self.object.name}_{self.number}"

    @cached_property
    def pose_msg(self) -> Pose:
        """T_camera_object, shared by all messages about the object; not to be changed."""
        return pose_msg(self.T_camera_object)


def seconds(stamp: Time) -> float:
    """A stamp in seconds."""
    return float(stamp.sec + 1e-9 * stamp.nanosec)


def image_to_rgb(msg: Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB. For rgb8 without padding this is the message's own buffer, not a copy."""
    expect(msg.width > 0 and msg.height > 0, "image", "an image with pixels", f"{msg.width}x{msg.height}")
    if msg.encoding not in _DIRECT:
        return decode_with_cv_bridge(msg)
    size, code = _DIRECT[msg.encoding]
    row = msg.width * size
    expect(msg.step >= row, "image.step", f"at least {row} bytes for {msg.width} pixels of {msg.encoding}", msg.step)
    expect(
        len(msg.data) == msg.step * msg.height,
        "image.data",
        f"{msg.step * msg.height} bytes (step x height)",
        len(msg.data),
    )
    buffer = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
    pixels = buffer[:, :row].reshape(msg.height, msg.width, size)
    if code is None:
        return np.ascontiguousarray(pixels)
    try:
        return cv2.cvtColor(np.ascontiguousarray(pixels), code)
    except cv2.error as error:  # an odd width in YUV 4:2:2
        raise InputError(
            f"image size: expected one that {msg.encoding} can have, got {msg.width}x{msg.height} ({error.err})"
        ) from None


def compressed_to_rgb(msg: CompressedImage, camera: Camera | None = None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from JPEG or PNG. camera: whose size the picture must claim before it is decoded."""
    size = None if camera is None else (camera.width, camera.height)
    bgr = decode(bytes(msg.data), "image.data", size=size)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


_DEPTH = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}


def depth_to_metres(msg: Image) -> NDArray[np.float32]:
    """(H, W) float32 metres, 0 where there is none: 16UC1 in millimetres or 32FC1 in metres (REP 118)."""
    expect(msg.width > 0 and msg.height > 0, "depth", "an image with pixels", f"{msg.width}x{msg.height}")
    expect(msg.encoding in _DEPTH, "depth.encoding", f"one of {', '.join(_DEPTH)}", repr(msg.encoding))
    kind = np.dtype(_DEPTH[msg.encoding]).newbyteorder(">" if msg.is_bigendian else "<")
    row = msg.width * kind.itemsize
    expect(msg.step >= row, "depth.step", f"at least {row} bytes for {msg.width} pixels of {msg.encoding}", msg.step)
    expect(
        len(msg.data) == msg.step * msg.height,
        "depth.data",
        f"{msg.step * msg.height} bytes (step x height)",
        len(msg.data),
    )
    buffer = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
    values = np.ascontiguousarray(buffer[:, :row]).view(kind).reshape(msg.height, msg.width)
    return _in_metres(values)


def compressed_depth_to_metres(msg: CompressedImage, camera: Camera | None = None) -> NDArray[np.float32]:
    """As `depth_to_metres`, from compressed_depth_image_transport: 12 bytes of parameters, then a 16-bit PNG; 32FC1 is
    stored as inverse depth in steps. camera: whose size the picture must claim before it is decoded."""
    data = bytes(msg.data)
    expect("compressedDepth" in msg.format, "depth.format", "compressedDepth", repr(msg.format))
    png = data.find(b"\x89PNG")
    expect(png == 12, "depth.data", "12 bytes and a PNG", f"{len(data)} bytes of format {msg.format!r}")
    size = None if camera is None else (camera.width, camera.height)
    values: NDArray[Any] = decode(data[png:], "depth.data", AS_STORED, kinds=(PNG,), size=size)
    fits = values.ndim == 2 and values.dtype == np.uint16
    expect(fits, "depth.data", "a 16-bit PNG", f"{values.dtype} {values.shape}")
    if "32FC1" not in msg.format:
        return _in_metres(values)
    a, b = (float(x) for x in np.frombuffer(data[4:12], "<f4"))
    expect(0 < a < np.inf and np.isfinite(b), "depth.data", "a scale above 0 and a finite shift", (a, b))
    steps = values.astype(np.float32) - np.float32(b)
    known = (values > 0) & (steps > 0)
    return _in_metres(np.divide(np.float32(a), steps, out=np.zeros_like(steps), where=known))


def _in_metres(values: NDArray[Any]) -> NDArray[np.float32]:
    """0 for what is no depth."""
    if values.dtype.kind == "u":
        return values.astype(np.float32) * np.float32(1e-3)
    depth = values.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def rgb_to_image(rgb: NDArray[np.uint8], header: Header) -> Image:
    """(H, W, 3) uint8 RGB -> Image, rgb8."""
    return _to_image(rgb, "rgb8", header)


def millimetres_to_image(depth: NDArray[np.uint16], header: Header) -> Image:
    """(H, W) uint16 millimetres -> Image, 16UC1."""
    return _to_image(depth, "16UC1", header)


def masks_image(header: Header, camera: Camera, poses: Sequence[ObjectPose]) -> Image:
    """What is seen of each object -> Image, mono8: 0 for none of them, k for the k-th; where several are, the last."""
    labels = np.zeros((camera.height, camera.width), np.uint8)
    for k, pose in enumerate(poses[:255], 1):
        if pose.visible is not None:
            labels[pose.visible.mask(camera)] = k
    return _to_image(labels, "mono8", header)


def _to_image(pixels: NDArray[Any], encoding: str, header: Header) -> Image:
    height, width = pixels.shape[:2]
    # rclpy takes an array.array as it is; of any other sequence it checks every byte.
    data = array.array("B", pixels.tobytes())
    return Image(header=header, height=height, width=width, encoding=encoding, step=pixels.nbytes // height, data=data)


def camera_from_info(info: CameraInfo, rectified: bool = False) -> Camera:
    """The camera of the image that `info` belongs to, region of interest and binning applied (REP 104).

    rectified: the image is an undistorted one (image_rect): P holds its intrinsics and there is no distortion.
    """
    name = "camera_info.p" if rectified else "camera_info.k"
    K = (
        np.array(info.p, dtype=np.float64).reshape(3, 4)[:, :3]
        if rectified
        else np.array(info.k, dtype=np.float64).reshape(3, 3)
    )
    expect(bool(K.any()), name, "intrinsics", "all zeros: the camera isn't calibrated")
    expect(bool(np.isfinite(K).all()), name, "finite numbers", K.reshape(-1).tolist())
    distortion = np.zeros(0) if rectified else np.array(info.d, dtype=np.float64)
    # A model that we don't know does no harm while all its coefficients are zero. A fisheye lens with zeros is no
    # pinhole, though.
    fisheye = info.distortion_model == "equidistant" and distortion.size > 0
    model = (info.distortion_model or "plumb_bob") if distortion.any() or fisheye else "plumb_bob"
    try:
        camera = Camera(K, info.width, info.height, distortion, model)
        x, y, width, height = info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height
        if width == 0 and height == 0:  # REP 104: the full image
            width, height = info.width, info.height
        fits = width > 0 and height > 0 and x + width <= info.width and y + height <= info.height
        expect(fits, "roi", f"a region inside {info.width}x{info.height}", f"{width}x{height} at ({x}, {y})")
        binning_x, binning_y = max(1, info.binning_x), max(1, info.binning_y)
        expect(
            binning_x <= width and binning_y <= height,
            "binning",
            f"at most {width}x{height}",
            f"{binning_x}x{binning_y}",
        )
        return camera.restricted(x, y, width, height, binning_x, binning_y)
    except InputError as error:
        raise InputError(f"camera_info.{error}") from None


def detections_from_msg(msg: Detection2DArray, refuse: Callable[[InputError], None]) -> list[Detection]:
    """All 2D detections of one image. Of several scores for one class the best counts. refuse: is told of each that is
    none, and is left out."""
    found = []
    for k, item in enumerate(msg.detections):
        scores: dict[str, float] = {}
        for result in item.results:
            name, score = result.hypothesis.class_id, result.hypothesis.score
            scores[name] = max(score, scores.get(name, score))
        center = item.bbox.center.position
        try:
            found.append(Detection(center.x, center.y, item.bbox.size_x, item.bbox.size_y, scores))
        except InputError as error:
            refuse(InputError(f"detections_2d.{error} (number {k} of {len(msg.detections)})"))
    return found


def point_msg(p: Array) -> Point:
    """(3,) metres -> Point."""
    return Point(x=float(p[0]), y=float(p[1]), z=float(p[2]))


def pose_msg(T: Array) -> Pose:
    """(4, 4) rigid transform, metres -> Pose."""
    x, y, z, w = (float(q) for q in quaternion(T[:3, :3]))
    return Pose(position=point_msg(T[:3, 3]), orientation=Quaternion(x=x, y=y, z=z, w=w))


def pose_stamped(header: Header, found: DetectedObject) -> PoseStamped:
    """T_camera_object in the image's frame."""
    return PoseStamped(header=header, pose=found.pose_msg)


def transform_stamped(header: Header, found: DetectedObject) -> TransformStamped:
    """The TF edge from the camera's optical frame (parent) to the object's frame (child)."""
    pose = found.pose_msg
    stamped = TransformStamped(header=header, child_frame_id=found.frame)
    stamped.transform.translation = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
    stamped.transform.rotation = pose.orientation
    return stamped


def detection3d(header: Header, found: DetectedObject) -> Detection3D:
    """vision_msgs 4.1.1: results[0].pose is the pose of the mesh's origin, bbox.center that of the box's centre."""
    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id = found.object.name
    result.hypothesis.score = float(found.pose.score)
    result.pose.pose = found.pose_msg
    result.pose.covariance = np.asarray(found.pose.covariance, dtype=np.float64).reshape(36)
    detection = Detection3D(header=header, id=found.track_id, results=[result])
    detection.bbox.center.position = point_msg(apply(found.T_camera_object, found.object.center[None])[0])
    detection.bbox.center.orientation = result.pose.pose.orientation
    x, y, z = (float(side) for side in found.object.dimensions)
    detection.bbox.size = Vector3(x=x, y=y, z=z)
    return detection


def detection3d_array(header: Header, objects: Sequence[DetectedObject]) -> Detection3DArray:
    """All objects of one image; empty if there is none."""
    return Detection3DArray(header=header, detections=[detection3d(header, found) for found in objects])


def projected_box_array(header: Header, objects: Sequence[DetectedObject]) -> ProjectedBoxArray:
    """The 8 corners of each box as the network sees them, pixels of the image as it came."""
    boxes = [
        ProjectedBox(
            header=header,
            id=found.track_id,
            class_id=found.object.name,
            u=np.asarray(found.pose.corners[:, 0], dtype=np.float64),
            v=np.asarray(found.pose.corners[:, 1], dtype=np.float64),
            reprojection_error=float(found.pose.reprojection_error),
            score=float(found.pose.score),
        )
        for found in objects
    ]
    return ProjectedBoxArray(header=header, boxes=boxes)
