"""Faults while images come: the camera's driver starts again with another resolution, the node is killed."""

import signal
import subprocess
from pathlib import Path

import numpy as np
from camera_rig import CAMERA, Peer, ends_cleanly, image_msg, info_msg
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from test_lifecycle import start_node
from test_object_pose_node import HERE, U, V, matrix_of, reference
from toy_bundle import toy_image

from fm_pose_core.types import Camera

FINER = Camera(CAMERA.K * [[1.5], [1.5], [1.0]], 480, 360)


def test_a_driver_that_starts_again_with_another_resolution(rig, toy_bundle):
    """Images that come before their camera_info are told and lost; then the poses are those of the new camera."""
    r = rig(**HERE)
    r.send_info()
    assert len(r.send(image_msg(toy_image(CAMERA, U, V), 1.0)).detections) == 1
    r.peer.destroy_publisher(r.images), r.peer.destroy_publisher(r.infos)
    r.wait(lambda: not r.node.camera_input._images.get_publisher_count(), "the end of the driver")
    r.images = r.peer.create_publisher(Image, "image_raw", qos_profile_sensor_data)
    r.infos = r.peer.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
    r.wait_active()
    picture = toy_image(FINER, U, V)
    r.images.publish(image_msg(picture, 2.0))
    (warning,) = r.wait(r.warnings, "the warning")
    assert "image size: expected 320x240" in warning and "got 480x360" in warning
    r.send_info(info_msg(FINER))
    (detection,) = r.send(image_msg(picture, 3.0)).detections
    expected = reference(toy_bundle, FINER)
    np.testing.assert_allclose(matrix_of(detection.results[0].pose.pose), expected.T_camera_object, atol=1e-6)
    assert r.warnings() == [warning]


def test_a_killed_node_starts_again_while_images_come(toy_bundle: Path) -> None:
    """At 60 images a second, three times: nothing of the one before keeps the next from working."""
    peer = Peer(("detections",))
    here = {"bundle": toy_bundle, "backend": "onnxruntime", "window_source": "fixed", "window_u": U, "window_v": V}
    options = [x for k, v in here.items() for x in ("-p", f"{k}:={v}")]
    picture, stamps = toy_image(CAMERA, U, V), iter(range(1, 10**6))
    peer.peer.create_timer(1 / 60, lambda: peer.images.publish(image_msg(picture, float(next(stamps)))))
    peer.peer.create_timer(0.2, lambda: peer.infos.publish(info_msg()))
    process: subprocess.Popen[str] | None = None
    try:
        for _ in range(3):
            process = start_node(peer, *options)
            peer.heard["detections"].clear()
            peer.wait(lambda: sum(bool(m.detections) for m in peer.heard["detections"]) >= 5, "five poses")
            assert process.poll() is None
            process.kill()
            process.communicate(timeout=20)
        process = start_node(peer, *options)
        peer.heard["detections"].clear()
        peer.wait(lambda: any(m.detections for m in peer.heard["detections"]), "a pose")
        ends_cleanly(process, signal.SIGTERM)
    finally:
        if process is not None:
            process.kill()
        peer.close()
