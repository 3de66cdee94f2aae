"""What people look at: depth in false colours with the skeleton, and the skeleton for RViz."""

import colorsys

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from fm_pose_core.hands.bundle import HandEntry
from fm_pose_core.hands.estimator import HandPose
from fm_pose_core.types import Camera
from fm_pose_ros.conversions import point_msg

FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def colour_of(joint: str) -> tuple[float, float, float]:
    """RGB in [0, 1]: one hue for each finger, white for the rest."""
    for k, finger in enumerate(FINGERS):
        if joint.startswith(finger):
            return colorsys.hsv_to_rgb(k / len(FINGERS), 0.75, 1.0)
    return 1.0, 1.0, 1.0


def false_colours(depth: NDArray[np.float32], nearest: float, farthest: float) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: near is red, far blue, nothing black."""
    share = np.clip((farthest - depth) / max(farthest - nearest, 1e-6), 0.0, 1.0)
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where((depth > 0)[..., None], colours // 2, 0).astype(np.uint8)


def draw_hand(
    depth: NDArray[np.float32], camera: Camera, hand: HandEntry, pose: HandPose | None, nearest: float, farthest: float
) -> NDArray[np.uint8]:
    """Depth in false colours, with the skeleton; a pose that was refused is grey, with the reason."""
    if pose is None:
        return false_colours(depth, nearest, farthest)
    canvas = false_colours(depth, pose.center[2] - 0.2, pose.center[2] + 0.2)
    ahead = bool((pose.joints[:, 2] > 1e-3).all())
    if ahead:
        pixels = camera.pixels(pose.joints)
        thickness = max(1, round(camera.width / 320))

        def at(k: int) -> tuple[int, int]:
            return int(np.clip(pixels[k, 0], -30000, 30000)), int(np.clip(pixels[k, 1], -30000, 30000))

        for a, b in hand.bones:
            i, j = hand.joints.index(a), hand.joints.index(b)
            colour = tuple(round(255 * c) for c in colour_of(b)) if pose.accepted else (140, 140, 140)
            cv2.line(canvas, at(i), at(j), colour, thickness, cv2.LINE_AA)
        for k, joint in enumerate(hand.joints):
            colour = tuple(round(255 * c) for c in colour_of(joint)) if pose.accepted else (140, 140, 140)
            cv2.circle(canvas, at(k), 2 * thickness, colour, -1, cv2.LINE_AA)
    text = f"{hand.name} {pose.score:.2f}" if pose.accepted else pose.reason
    cv2.putText(canvas, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def skeleton_markers(header: Header, hand: HandEntry, pose: HandPose | None, lifetime: float) -> MarkerArray:
    """Bones as lines and joints as spheres; without a pose, their deletion."""
    if pose is None:
        return MarkerArray(
            markers=[
                Marker(header=header, ns=f"{hand.name}/{part}", id=0, action=Marker.DELETE)
                for part in ("bones", "joints")
            ]
        )
    bones = Marker(header=header, ns=f"{hand.name}/bones", id=0, type=Marker.LINE_LIST, action=Marker.ADD)
    joints = Marker(header=header, ns=f"{hand.name}/joints", id=0, type=Marker.SPHERE_LIST, action=Marker.ADD)
    bones.scale.x = 0.004
    joints.scale.x = joints.scale.y = joints.scale.z = 0.010
    for a, b in hand.bones:
        for joint in (a, b):
            bones.points.append(point_msg(pose.joints[hand.joints.index(joint)]))
            bones.colors.append(_rgba(b))
    for k, joint in enumerate(hand.joints):
        joints.points.append(point_msg(pose.joints[k]))
        joints.colors.append(_rgba(joint))
    for marker in (bones, joints):
        marker.pose.orientation.w = 1.0
        marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        marker.lifetime = Duration(sec=int(lifetime), nanosec=int(1e9 * (lifetime % 1.0)))
    return MarkerArray(markers=[bones, joints])


def _rgba(joint: str) -> ColorRGBA:
    r, g, b = colour_of(joint)
    return ColorRGBA(r=r, g=g, b=b, a=1.0)
