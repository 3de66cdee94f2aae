"""What people look at: the overlay image and the markers of RViz."""

from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from fm_pose_core.geometry import BOX_EDGES, Array, apply
from fm_pose_core.objects.overlay import draw_pose
from fm_pose_core.types import Camera, ObjectPose, Window
from fm_pose_ros.conversions import DetectedObject, point_msg

GREEN, ORANGE = (60, 220, 60), (255, 150, 0)
LIMIT = 1e6  # pixels: nothing farther out is drawn


def draw_overlay(
    image: NDArray[np.uint8],
    camera: Camera,
    objects: Sequence[DetectedObject],
    refused: Sequence[tuple[Window, ObjectPose]] = (),
) -> NDArray[np.uint8]:
    """A copy of `image` (H, W, 3) RGB with each object's box and axes, and for each estimate that was refused the
    window's centre and the reason."""
    canvas = image.copy()
    thickness = max(1, round(camera.width / 500))
    for found in objects:
        T, box, length = found.T_camera_object, found.object.box_corners, 0.5 * found.object.diameter
        canvas = draw_pose(canvas, camera, T, box, GREEN, thickness=thickness, axis_length=length)
        corners = apply(T, box)
        corners = corners[corners[:, 2] > 1e-3]  # in front of the camera
        if len(corners):
            _text(canvas, camera.pixels(corners), f"{found.track_id} {found.pose.score:.2f}", GREEN)
    for window, pose in refused:
        center = np.array([[window.u, window.v]])
        if (np.abs(center) < LIMIT).all():
            cv2.drawMarker(canvas, tuple(int(x) for x in np.rint(center[0])), ORANGE, cv2.MARKER_CROSS, 20, thickness)
            _text(canvas, center, pose.reason, ORANGE)
    return canvas


def _text(canvas: NDArray[np.uint8], near: Array, text: str, color: tuple[int, int, int]) -> None:
    scale = max(0.4, canvas.shape[1] / 1600)
    limits = (canvas.shape[1] - 20, canvas.shape[0] - 6)
    x, y = int(np.clip(near[:, 0].min(), 4, limits[0])), int(np.clip(near[:, 1].min() - 6, 14, limits[1]))
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)


class Markers:
    """Markers that never go stale: what is gone is deleted by name, and a life time covers a node that died."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()

    def update(self, header: Header, objects: Sequence[DetectedObject], style: str, lifetime: float) -> MarkerArray:
        """Markers for `objects`, and the deletion of those that were shown before and no longer are.

        style: box, mesh or both. lifetime: seconds, 0 for ever.
        """
        markers = []
        for found in objects:
            if style in ("box", "both"):
                markers.append(_box(header, found))
            if style in ("mesh", "both"):
                markers.append(_mesh(header, found))
        for marker in markers:
            marker.lifetime = Duration(sec=int(lifetime), nanosec=int(1e9 * (lifetime % 1.0)))
        shown = {(marker.ns, marker.id) for marker in markers}
        gone = [
            Marker(header=header, ns=ns, id=number, action=Marker.DELETE) for ns, number in sorted(self._shown - shown)
        ]
        self._shown = shown
        return MarkerArray(markers=gone + markers)

    def clear(self) -> MarkerArray:
        """Delete all."""
        self._shown = set()
        return MarkerArray(markers=[Marker(action=Marker.DELETEALL)])


def _box(header: Header, found: DetectedObject) -> Marker:
    marker = Marker(
        header=header, ns=f"{found.object.name}/box", id=found.number, type=Marker.LINE_LIST, action=Marker.ADD
    )
    marker.pose = found.pose_msg
    marker.scale.x = 0.015 * found.object.diameter  # width of the lines, metres
    marker.color = ColorRGBA(r=0.2, g=0.9, b=0.2, a=1.0)
    corners = found.object.box_corners
    marker.points = [point_msg(corners[i]) for edge in BOX_EDGES for i in edge]
    return marker


def _mesh(header: Header, found: DetectedObject) -> Marker:
    path = found.object.mesh_path
    assert path is not None  # checked by the node
    marker = Marker(
        header=header, ns=f"{found.object.name}/mesh", id=found.number, type=Marker.MESH_RESOURCE, action=Marker.ADD
    )
    marker.pose = found.pose_msg
    marker.scale.x = marker.scale.y = marker.scale.z = 1.0
    marker.color = ColorRGBA(r=0.8, g=0.8, b=0.8, a=0.9)
    marker.mesh_resource = path.absolute().as_uri()
    marker.mesh_use_embedded_materials = True
    return marker
