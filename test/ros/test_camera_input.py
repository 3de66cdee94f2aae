"""What a camera can send: encodings, regions of interest, distortion, compression, and all that is wrong with it."""

import array

import numpy as np
import pytest
from camera_rig import CAMERA, header, image_msg, info_msg, rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from test_object_pose_node import HERE, U, V, matrix_of, reference
from toy_bundle import toy_image

from fm_pose_core.types import Camera

PIXELS = toy_image(CAMERA, U, V)
ALPHA = np.full((240, 320, 1), 255, np.uint8)


def pose_in(detections) -> np.ndarray:
    (detection,) = detections.detections
    return matrix_of(detection.results[0].pose.pose)


def test_every_direct_encoding_gives_the_same_pose(rig, toy_bundle):
    r = rig(**HERE)
    r.send_info()
    expected = reference(toy_bundle).T_camera_object
    white = toy_image(CAMERA, U, V, color=(255, 255, 255))
    variants = {
        "rgb8": PIXELS,
        "bgr8": PIXELS[..., ::-1],
        "rgba8": np.dstack([PIXELS, ALPHA]),
        "bgra8": np.dstack([PIXELS[..., ::-1], ALPHA]),
    }
    for i, (encoding, data) in enumerate(variants.items()):
        np.testing.assert_allclose(
            pose_in(r.send(image_msg(data, 1.0 + i, encoding, padding=16))), expected, atol=1e-12
        )
    expected = reference(toy_bundle, image=white).T_camera_object
    np.testing.assert_allclose(pose_in(r.send(image_msg(white[..., 0], 9.0, "mono8"))), expected, atol=1e-12)


def test_compressed_transport(rig, toy_bundle):
    import cv2

    r = rig(image_transport="compressed", **HERE)
    r.send_info()
    png = cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes()
    answer = r.send(CompressedImage(header=header(3.5), format="bgr8; png compressed bgr8", data=array.array("B", png)))
    assert answer.header == header(3.5)
    np.testing.assert_allclose(pose_in(answer), reference(toy_bundle).T_camera_object, atol=1e-12)
    r.compressed.publish(CompressedImage(header=header(4.0), format="jpeg", data=array.array("B", b"rubbish")))
    r.wait(lambda: any("image.data" in w for w in r.warnings()), "a warning")
    assert pose_in(r.send(CompressedImage(header=header(5.0), format="png", data=array.array("B", png)))) is not None


def test_region_of_interest_and_binning_give_the_pose_of_the_full_image(rig, toy_bundle):
    """A smaller camera is cut out of a larger one: twice the pixels, then a region of interest."""
    r = rig(window_u=U - 30, window_v=V - 10)
    info = info_msg(Camera(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), 640, 480))
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 60, 20, 400, 300
    r.send_info(info)
    answer = r.send(image_msg(PIXELS[10:160, 30:230], 1.0))
    np.testing.assert_allclose(pose_in(answer), reference(toy_bundle).T_camera_object, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "d"), [("plumb_bob", [-0.2, 0.05, 0.001, -0.002, 0.0]), ("equidistant", [-0.05, 0.01, 0.0, 0.0])]
)
def test_distortion_is_undone(rig, toy_bundle, model, d):
    camera = Camera(CAMERA.K, 320, 240, np.array(d), model)
    r = rig(window_u=50.0, window_v=40.0)  # off the centre, where it matters
    r.send_info(info_msg(camera))
    answer = r.send(image_msg(toy_image(camera, 50.0, 40.0), 1.0))
    np.testing.assert_allclose(pose_in(answer), reference(toy_bundle, camera, 50.0, 40.0).T_camera_object, atol=1e-12)
    assert np.abs(pose_in(answer) - reference(toy_bundle, u=50.0, v=40.0).T_camera_object).max() > 5e-3


def changed(**changes):
    msg = image_msg(PIXELS, 2.0)
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (changed(step=100), "image.step: expected at least 960"),
        (changed(data=array.array("B", bytes(1000))), "image.data: expected 230400"),
        (changed(encoding="klingon8"), "image.encoding: expected one that is read directly, got 'klingon8'"),
        (changed(width=0, height=0, step=0, data=array.array("B")), "image size: expected 320x240 as camera_info says"),
        (image_msg(PIXELS[:100], 2.0), "image size: expected 320x240"),
    ],
    ids=["step", "data", "encoding", "empty", "size"],
)
def test_a_bad_image_costs_one_warning_and_no_pose_and_the_node_goes_on(rig, bad, text):
    r = rig(**HERE)
    r.send_info()
    for i in range(3):
        bad.header = header(2.0 + i)
        r.images.publish(bad)
        r.wait(lambda n=i: r.node.diagnostics.statistics.bad > n, "the bad frame")
    assert pose_in(r.send(image_msg(PIXELS, 8.0))) is not None
    assert len(r.heard["detections"]) == 1
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith(text)
    assert r.wait(lambda: r.status().get("frames bad") == "3")


@pytest.mark.parametrize("k", [[0.0] * 9, [float("nan")] * 9], ids=["zero", "nan"])
def test_a_useless_camera_info_costs_one_warning_and_the_node_goes_on(rig, k):
    r = rig(**HERE)
    info = info_msg()
    info.k = k
    r.send_info(info)
    for i in range(3):
        r.images.publish(image_msg(PIXELS, 1.0 + i))
        r.wait(lambda n=i: r.node.diagnostics.statistics.bad > n, "the bad frame")
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith("camera_info.k: expected")
    r.wait(lambda: r.status().get("camera_info", "").startswith("invalid"))
    r.send_info()
    assert pose_in(r.send(image_msg(PIXELS, 8.0))) is not None
    assert len(r.heard["detections"]) == 1


def test_a_missing_camera_info_is_told(rig):
    r = rig(**HERE)
    r.images.publish(image_msg(PIXELS, 1.0))
    (warning,) = r.wait(r.warnings, "the warning")
    told = "its publisher is found (1), but has sent nothing since"
    assert warning == f"no camera_info on /{r.namespace}/camera_info yet, so no poses: {told}"
    r.send_info()
    assert pose_in(r.send(image_msg(PIXELS, 2.0))) is not None


def test_missing_images_are_told(rig):
    r = rig(**HERE)
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith(f"no image on /{r.namespace}/image_raw yet, so no poses: its publisher is found (1)")


def test_a_wrong_topic_is_told_with_those_that_there_are(rig):
    r = rig(topics={"image": "front/image"}, connected=False, **HERE)
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith(f"no image on /{r.namespace}/image_raw yet, so no poses: nobody publishes there.")
    assert f"/{r.namespace}/front/image" in warning and "overlay" not in warning  # nor its own outputs


def test_messages_of_another_type_are_told(rig):
    r = rig(topics={"image": "other_image"}, connected=False, **HERE)
    context = rclpy.Context()  # as another process has one: in one, Fast DDS has but one type for a topic
    rclpy.init(context=context, domain_id=r.domain)
    camera = rclpy.create_node("camera", namespace=r.namespace, context=context)
    camera.create_publisher(CompressedImage, "image_raw", 1)
    told = "its publisher sends sensor_msgs/msg/CompressedImage, and this subscription takes sensor_msgs/msg/Image"
    r.wait(lambda: any(w.endswith(told) for w in r.warnings()), "the warning")
    camera.destroy_node()
    rclpy.shutdown(context=context)


def test_an_override_that_hears_nobody_is_told(rig):
    override = {"qos_overrides./{ns}/image_raw.subscription.reliability": "reliable"}
    r = rig(connected=False, **override, **HERE)
    told = "its publisher's QoS does not go with this subscription's (reliable, volatile), see qos_overrides"
    r.wait(lambda: any(w.endswith(told) for w in r.warnings()), "the warning")


def test_subscriptions_follow_the_publishers(rig):
    """Reliable while all publishers are; a latched camera_info is heard, however long ago it was sent."""
    r = rig(topics={"image": "other_image", "info": "other_info"}, connected=False, **HERE)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    r.peer.create_publisher(CameraInfo, "camera_info", latched).publish(info_msg())
    images = r.peer.create_publisher(Image, "image_raw", 1)

    def reliability() -> ReliabilityPolicy:
        return r.node.camera_input._images.qos_profile.reliability

    r.wait(lambda: r.node.state == "active", "the active node")
    r.wait(lambda: reliability() == ReliabilityPolicy.RELIABLE, "the reliable subscription")
    r.wait(lambda: r.node.diagnostics.camera.startswith("320x240"), "the latched camera_info")
    r.wait(images.get_subscription_count)
    images.publish(image_msg(PIXELS, 1.0))
    assert pose_in(r.answer("detections", header(1.0).stamp)) is not None
    r.peer.create_publisher(Image, "image_raw", qos_profile_sensor_data)
    r.wait(lambda: reliability() == ReliabilityPolicy.BEST_EFFORT, "the best-effort subscription")


def test_tracks_end_where_the_camera_changes(rig):
    r = rig(("detections",), window_source="tracking", **HERE)
    r.send_info()
    assert r.send(image_msg(PIXELS, 1.0)).detections[0].id == "toy_box_1"
    image = image_msg(PIXELS, 2.0)
    image.header.frame_id = "another_camera"
    assert r.send(image).detections[0].id == "toy_box_2"


def test_stamps_of_another_clock_are_a_warning(rig):
    r = rig(**HERE)
    r.send_info()
    r.send(image_msg(PIXELS, 1.0))
    r.wait(lambda: any("use_sim_time" in s.message for s in r.states()), "the status")


def test_stamps_that_go_back_cost_that_frame_and_the_node_goes_on(rig):
    r = rig(**HERE)
    r.send_info()
    assert pose_in(r.send(image_msg(PIXELS, 10.0))) is not None
    r.images.publish(image_msg(PIXELS, 2.0))  # the bag starts again
    r.wait(lambda: r.node.diagnostics.statistics.bad == 1, "the bad frame")
    assert pose_in(r.send(image_msg(PIXELS, 2.1))) is not None
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith("image.header.stamp: expected stamps that go forward, got 8.000 s back")
    assert [d.header.stamp.sec for d in r.heard["detections"]] == [10, 2]


def test_a_stamp_that_jitters_costs_what_is_older_than_the_newest(rig):
    r = rig(**HERE)
    r.send_info()
    for i, stamp in enumerate((10.0, 9.95, 9.97)):
        r.images.publish(image_msg(PIXELS, stamp))
        r.wait(lambda n=i + 1: r.node.diagnostics.statistics.received == n, "the frame")
    r.wait(lambda: r.node.diagnostics.statistics.bad == 2, "the late frames")
    r.send(image_msg(PIXELS, 10.03))
    assert [d.header.stamp.nanosec for d in r.heard["detections"]] == [0, 30_000_000]


def test_tracks_end_with_a_long_pause(rig):
    r = rig(window_source="tracking", **HERE)
    r.send_info()
    ids = [r.send(image_msg(PIXELS, stamp)).detections[0].id for stamp in (1000.0, 1009.0, 8200.0)]
    assert ids == ["toy_box_1", "toy_box_1", "toy_box_2"]


def test_without_a_frame_id_that_of_camera_info_is_used(rig):
    r = rig(**HERE)
    r.send_info()
    image = image_msg(PIXELS, 1.0)
    image.header.frame_id = ""
    assert r.send(image).header.frame_id == "camera_optical_frame"


def test_a_failure_inside_the_network_costs_one_frame(rig, monkeypatch):
    r = rig(**HERE)
    r.send_info()
    backend = r.node._targets[0].estimator.backend
    with monkeypatch.context() as patch:
        patch.setattr(type(backend), "infer", lambda *a: (_ for _ in ()).throw(RuntimeError("out of memory")))
        r.images.publish(image_msg(PIXELS, 1.0))
        r.wait(lambda: r.node.diagnostics.statistics.bad == 1, "the bad frame")
    assert pose_in(r.send(image_msg(PIXELS, 2.0))) is not None
    (warning,) = r.wait(r.warnings, "the warning")
    assert "out of memory" in warning


def test_warnings_repeat_after_their_period_with_a_count(rig):
    r = rig(warning_period=0.0, **HERE)
    r.send_info()
    for i in range(3):
        r.images.publish(changed(encoding="klingon8", header=header(2.0 + i)))
        r.wait(lambda n=i: r.node.diagnostics.statistics.bad > n, "the bad frame")
    r.wait(lambda: len(r.warnings()) == 3, "three warnings")


@pytest.mark.parametrize(
    ("reliability", "remedy"),
    [
        (ReliabilityPolicy.BEST_EFFORT, "config/fastdds.xml"),
        (ReliabilityPolicy.RELIABLE, "give its queue a larger depth"),
    ],
)
def test_images_that_get_lost_while_the_node_has_time_are_told(rig, reliability, remedy):
    r = rig(topics={"image": "other_image"}, connected=False, **HERE)
    r.peer.create_publisher(Image, "image_raw", QoSProfile(depth=1, reliability=reliability))
    r.wait(lambda: r.node.state == "active", "the active node")
    r.wait(lambda: r.node.camera_input._images.qos_profile.reliability == reliability, "the publisher")
    r.node.diagnostics.statistics.received, r.node.diagnostics.statistics.dropped = 30, 20
    s = r.node.diagnostics.statistics
    s.waiting_since = s.started + 60.0
    then, *rest = r.node.diagnostics._watched
    r.node.diagnostics._watched = (then - 60.0, *rest)
    warning = r.wait(lambda: next((w for w in r.warnings() if "lost on the way" in w), None), "the warning")
    assert warning.startswith(f"20 of 50 images on /{r.namespace}/image_raw were lost on the way")
    assert remedy in warning
    r.wait(lambda: any("lost on the way" in s.message for s in r.states()), "the status")


def test_two_cameras_on_one_topic_are_no_loss(rig):
    """Each counts its own messages; the numbers of both together say nothing."""
    r = rig(**HERE)
    r.send_info()
    other = r.peer.create_publisher(Image, r.images.topic_name, r.images.qos_profile)
    r.wait(lambda: r.node.camera_input._images.get_publisher_count() == 2, "both")
    for i, camera in enumerate((other, other, other, r.images, other, r.images, other)):
        msg = image_msg(PIXELS, 1.0 + i)
        camera.publish(msg)
        r.answer("detections", msg.header.stamp)
    assert r.node.diagnostics.statistics.dropped == 0
