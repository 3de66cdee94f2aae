"""A node that gives nothing says so: on /diagnostics and in its log."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

import toy_hand
from camera_rig import CAMERA, Rig, detections_msg, header, image_msg, info_msg
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from toy_bundle import toy_image, write_toy_bundle

from fm_pose_ros import diagnostics
from fm_pose_ros.conversions import millimetres_to_image
from fm_pose_ros.hand_pose_node import HandPoseNode

HERE = {"window_u": 159.5, "window_v": 119.5}
PIXELS = toy_image(CAMERA, 159.5, 119.5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "SILENCE", 0.3)
    monkeypatch.setattr(diagnostics, "LONG", 0.6)


@pytest.fixture
def hand_rig(tmp_path: Any) -> Iterator[Rig]:
    bundle = toy_hand.write_toy_hand(tmp_path / "toy_hand")
    topics = {"image": "depth/image_rect_raw", "node": "hand_pose_node"}
    made = Rig(bundle, {"window_source": "detections"}, ("joints",), HandPoseNode, **topics)
    made.wait_active()
    yield made
    made.close()


def warned(r: Rig, beginning: str) -> str:
    """The first warning that begins like this, once it came."""
    found: str = r.wait(lambda: next((w for w in r.warnings() if w.startswith(beginning)), None), beginning)
    return found


def says(r: Rig, part: str) -> DiagnosticStatus:
    """The first status whose message has this, once it came."""
    return r.wait(lambda: next((s for s in r.states() if part in s.message), None), part)


def streaming(r: Rig, send: Callable[[float], None], until: Callable[[], Any]) -> Any:
    """Send images, 20 a second at most, until something holds."""
    stamps = (100.0 + 0.05 * i for i in range(10**6))

    def more() -> Any:
        send(next(stamps))
        time.sleep(0.05)
        return until()

    return r.wait(more, "the node's words")


@pytest.mark.usefixtures("impatient")
def test_detections_that_nobody_sends_are_told(rig: Callable[..., Rig]) -> None:
    r = rig(window_source="detections", detection_queue=1)
    r.send_info()
    topic = f"/{r.namespace}/detections_2d"
    told = f"no detections of the images on {topic}, so no poses: its publisher is found (1), but has sent nothing"
    streaming(r, lambda t: r.images.publish(image_msg(PIXELS, t)), lambda: any(told in s.message for s in r.states()))
    assert says(r, told).level == DiagnosticStatus.WARN
    assert warned(r, told)


@pytest.mark.usefixtures("impatient")
def test_detections_of_other_stamps_are_told_by_the_hand_too(hand_rig: Rig) -> None:
    r, depth = hand_rig, np.full((240, 320), 500, np.uint16)
    r.send_info()

    def send(stamp: float) -> None:
        r.images.publish(millimetres_to_image(depth, header(stamp)))
        r.detections.publish(detections_msg(stamp - 50.0, ("hand", 0.9, 160.0, 120.0)))

    told = "those that come have other stamps"
    streaming(r, send, lambda: any(told in s.message for s in r.states()))
    assert warned(r, "detections_2d.header.stamp: expected the stamp of an image within")
    assert not r.heard["joints"]


@pytest.mark.usefixtures("impatient")
def test_a_camera_that_falls_silent_is_told_in_the_log(rig: Callable[..., Rig]) -> None:
    r = rig(**HERE)
    r.send_info()
    r.send(image_msg(PIXELS, 1.0))
    assert warned(r, f"no image on /{r.namespace}/image_raw any more, so no poses: its publisher is found (1)")
    assert says(r, "no image on").level == DiagnosticStatus.WARN


@pytest.mark.usefixtures("impatient")
def test_a_node_that_is_slow_does_not_miss_the_camera(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    r = rig(**HERE)
    r.send_info()
    estimator = r.node._targets[0].estimator
    estimate = estimator.estimate_many

    def slow(*args: Any) -> Any:
        time.sleep(0.5)
        return estimate(*args)

    monkeypatch.setattr(estimator, "estimate_many", slow)
    r.send(image_msg(PIXELS, 1.0))
    before = len(r.states())
    streaming(r, lambda t: r.images.publish(image_msg(PIXELS, t)), lambda: len(r.heard["detections"]) > 4)
    assert len(r.states()) > before + 1
    assert not any("no image" in s.message for s in r.states()[before:])


def test_two_publishers_of_camera_info_are_a_warning(rig: Callable[..., Rig]) -> None:
    r = rig(**HERE)
    r.send_info()
    second = r.peer.create_publisher(CameraInfo, "camera_info", r.infos.qos_profile)
    told = f"/{r.namespace}/camera_info: expected one publisher, got 2"
    streaming(r, lambda t: r.images.publish(image_msg(PIXELS, t)), lambda: any(told in s.message for s in r.states()))
    assert says(r, told).level == DiagnosticStatus.WARN
    r.peer.destroy_publisher(second)


def test_a_camera_info_of_another_frame_is_told_once(rig: Callable[..., Rig]) -> None:
    r = rig(**HERE, warning_period=0.0)
    info = info_msg()
    info.header.frame_id = "depth_optical_frame"
    r.send_info(info)
    for i in range(3):
        r.send(image_msg(PIXELS, 1.0 + i))
    told = "camera_info.header.frame_id: expected the image's, camera_optical_frame, got depth_optical_frame"
    assert warned(r, told)
    assert sum(w.startswith(told) for w in r.warnings()) == 1


def test_the_right_camera_of_a_stereo_pair_is_told(rig: Callable[..., Rig]) -> None:
    r = rig(**HERE, rectified=True)
    info = info_msg()
    info.p[3] = -30.0
    r.send_info(info)
    assert warned(r, "camera_info.p: expected a fourth column of zeros, got -30, 0,")


def test_what_the_bundle_cannot_have_is_refused_while_the_node_runs(rig: Callable[..., Rig]) -> None:
    r = rig(**HERE)
    r.send_info()
    (refused,) = r.node.set_parameters([Parameter("refine", value="features")])
    assert not refused.successful and "refine" in refused.reason
    assert r.send(image_msg(PIXELS, 1.0)).detections


def test_markers_need_a_mesh(rig: Callable[..., Rig], tmp_path: Path) -> None:
    r = rig(bundle=write_toy_bundle(tmp_path / "bare", mesh=False), **HERE)
    (refused,) = r.node.set_parameters([Parameter("marker", value="mesh")])
    assert not refused.successful
    assert refused.reason == "marker: expected box, since toy_box has no mesh, got mesh"
