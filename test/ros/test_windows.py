"""Where the node looks: 2D detections, a fixed place, the last pose; and that the newest frame wins."""

import threading

import numpy as np
import pytest
from camera_rig import CAMERA, detections_msg, image_msg
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from test_object_pose_node import matrix_of, two_bundles
from toy_bundle import toy_image, toy_pose

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import transform

EMPTY = np.full((240, 320, 3), 30, np.uint8)


def position(detections, index: int = 0) -> np.ndarray:
    return matrix_of(detections.detections[index].results[0].pose.pose)[:3, 3]


def truth(u: float, v: float) -> np.ndarray:
    return toy_pose(CAMERA, u, v)[:3, 3]


def test_the_middle_of_the_image_is_the_default_window(rig):
    r = rig(("detections",), window_source="tracking")
    r.send_info()
    np.testing.assert_allclose(
        position(r.send(image_msg(toy_image(CAMERA, 159.5, 119.5), 1.0))), truth(159.5, 119.5), atol=2e-3
    )


def test_tracking_follows_a_moving_object(rig):
    r = rig(("detections",), window_source="tracking")
    r.send_info()
    u, v = 159.5, 119.5
    for i in range(12):
        answer = r.send(image_msg(toy_image(CAMERA, u, v), 1.0 + 0.1 * i))
        np.testing.assert_allclose(position(answer), truth(u, v), atol=0.02)
        assert answer.detections[0].id == "toy_box_1"
        u, v = u - 10, v + 5
    assert u < 50  # far outside of the first window


def test_a_lost_object_is_looked_for_at_the_initial_window_again(rig):
    r = rig(("detections",), window_source="tracking", lost_after=3)
    r.send_info()
    for i in range(11):
        assert r.send(image_msg(toy_image(CAMERA, 160.0 + 10 * i, 120.0), 1.0 + 0.1 * i)).detections
    middle = toy_image(CAMERA, 160.0, 120.0)
    for i in range(3):  # still looked for where it was
        assert r.send(image_msg(middle, 3.0 + 0.1 * i)).detections == []
    (found,) = r.send(image_msg(middle, 4.0)).detections
    assert found.id == "toy_box_2"


def test_a_bag_that_starts_again_starts_the_tracking_again(rig):
    r = rig(("detections",), window_source="tracking", lost_after=1000)
    r.send_info()
    for i in range(11):
        assert r.send(image_msg(toy_image(CAMERA, 160.0 + 10 * i, 120.0), 50.0 + 0.1 * i)).detections
    r.images.publish(image_msg(EMPTY, 1.0))
    r.wait(lambda: r.node.diagnostics.statistics.bad == 1, "the frame from the past")
    (found,) = r.send(image_msg(toy_image(CAMERA, 160.0, 120.0), 1.1)).detections
    assert found.id == "toy_box_2"


def test_a_stamp_that_jitters_does_not_end_a_track(rig):
    r = rig(("detections",), window_source="tracking")
    r.send_info()
    image = toy_image(CAMERA, 160.0, 120.0)
    r.send(image_msg(image, 5.0))
    r.images.publish(image_msg(image, 4.99))
    r.wait(lambda: r.node.diagnostics.statistics.bad == 1, "the frame from the past")
    assert r.send(image_msg(image, 5.1)).detections[0].id == "toy_box_1"


def test_detections_are_matched_to_the_image_they_were_made_from(rig):
    r = rig(("detections",), window_source="detections")
    r.send_info()
    places = [(80.0 + 40 * i, 60.0 + 30 * i) for i in range(4)]
    for i, (u, v) in enumerate(places):
        r.images.publish(image_msg(toy_image(CAMERA, u, v), 1.0 + i))
        r.wait(lambda n=i: r.node.diagnostics.statistics.received > n, "the image")
    r.detections.publish(detections_msg(2.0, ("toy_box", 0.9, *places[1])))
    answer = r.wait(lambda: r.heard["detections"])[0]
    assert answer.header.stamp.sec == 2 and answer.header.frame_id == "camera_optical_frame"
    np.testing.assert_allclose(position(answer), truth(*places[1]), atol=2e-3)


def test_the_best_detection_of_our_class_is_used(rig):
    r = rig(("detections",), window_source="detections", detection_class="7")
    r.send_info()
    u, v = 120.0, 90.0
    r.images.publish(image_msg(toy_image(CAMERA, u, v), 1.0))
    r.detections.publish(detections_msg(1.0, ("9", 0.99, 300.0, 200.0), ("7", 0.3, 30.0, 200.0), ("7", 0.8, u, v)))
    answer = r.wait(lambda: r.heard["detections"])[0]
    assert len(answer.detections) == 1
    np.testing.assert_allclose(position(answer), truth(u, v), atol=2e-3)


def test_an_empty_detection_array_is_an_empty_answer(rig):
    r = rig(("detections",), window_source="detections")
    r.send_info()
    r.images.publish(image_msg(EMPTY, 1.0))
    r.detections.publish(detections_msg(1.0))
    assert r.wait(lambda: r.heard["detections"])[0].detections == []


def test_several_instances(rig):
    r = rig(("detections",), window_source="detections", max_instances=3)
    r.send_info()
    places = [(60.0, 60.0), (240.0, 180.0)]
    pixels = np.maximum(toy_image(CAMERA, *places[0]), toy_image(CAMERA, *places[1]))
    for stamp, scores in ((1.0, (0.9, 0.5)), (2.0, (0.5, 0.9))):
        r.images.publish(image_msg(pixels, stamp))
        r.detections.publish(
            detections_msg(stamp, *(("toy_box", s, *place) for s, place in zip(scores, places, strict=True)))
        )
        r.wait(lambda n=int(stamp): len(r.heard["detections"]) == n)
    ids = []
    for answer in r.heard["detections"]:
        near = sorted((position(answer, i)[0], d.id) for i, d in enumerate(answer.detections))
        ids.append([name for _, name in near])
    assert ids[0] == ids[1] and set(ids[0]) == {"toy_box_1", "toy_box_2"}
    frames = [sorted(t.child_frame_id for t in message.transforms) for message in r.wait(lambda: r.heard["tf"])]
    assert frames[0] == ["toy_box", "toy_box_2"]


def test_a_detection_starts_the_tracking_and_is_not_needed_after(rig):
    r = rig(("detections",), window_source="tracking", initial_window="detections")
    r.send_info()
    u, v = 60.0, 60.0
    r.images.publish(image_msg(toy_image(CAMERA, u, v), 1.0))
    r.detections.publish(detections_msg(1.0, ("toy_box", 0.9, u, v)))
    r.wait(lambda: r.heard["detections"])
    for i in range(3):
        u += 8
        np.testing.assert_allclose(
            position(r.send(image_msg(toy_image(CAMERA, u, v), 2.0 + i))), truth(u, v), atol=0.02
        )


def test_further_instances_are_found_while_one_is_tracked(rig):
    r = rig(("detections",), window_source="tracking", initial_window="detections", max_instances=3)
    r.send_info()
    places = [(60.0, 60.0), (240.0, 180.0)]
    image = np.maximum(toy_image(CAMERA, *places[0]), toy_image(CAMERA, *places[1]))
    counts = []
    for i in range(6):
        found = [("toy_box", 0.9 - 0.1 * k, *place) for k, place in enumerate(places[: 1 if i < 2 else 2])]
        r.detections.publish(detections_msg(1.0 + i, *found))
        r.wait(lambda: r.node._latest or r.node.detection_input.matcher._detections, "the detections")
        counts.append(len(r.send(image_msg(image, 1.0 + i)).detections))
    assert counts == [1, 1, 2, 2, 2, 2]  # also a detection of what is tracked comes again and again
    last = r.send(image_msg(image, 9.0))  # without a detection
    assert sorted(d.id for d in last.detections) == ["toy_box_1", "toy_box_2"]


def test_what_is_tracked_does_not_wait_for_detections_of_what_is_missing(rig, tmp_path):
    r = rig(("detections",), bundle=two_bundles(tmp_path), window_source="tracking", initial_window="detections")
    r.send_info()
    image = toy_image(CAMERA, 60.0, 60.0)
    r.images.publish(image_msg(image, 1.0))
    r.detections.publish(detections_msg(1.0, ("toy_box", 0.9, 60.0, 60.0)))
    r.wait(lambda: r.heard["detections"])
    assert [d.id for d in r.send(image_msg(image, 2.0)).detections] == ["toy_box_1"]
    r.detections.publish(detections_msg(1.0, ("other", 0.9, 60.0, 60.0)))
    r.wait(lambda: r.node._latest, "the detections")
    assert [d.id for d in r.send(image_msg(image, 3.0)).detections] == ["toy_box_1", "other_1"]


def test_an_object_whose_centre_has_left_the_image_is_lost_at_once(rig):
    r = rig(("detections",), window_source="tracking", lost_after=1000)
    r.send_info()
    image = toy_image(CAMERA, 159.5, 119.5)
    left, behind = toy_pose(CAMERA, 322.0, 120.0), transform(np.eye(3), np.array([0.0, 0.0, -0.5]))
    assert r.send(image_msg(image, 1.0)).detections[0].id == "toy_box_1"
    for i, pose in enumerate((left, behind)):
        r.node._targets[0].tracks.live[0].T_camera_object = pose
        assert [d.id for d in r.send(image_msg(image, 2.0 + i)).detections] == [f"toy_box_{i + 2}"]
    assert r.warnings() == []


def test_what_cannot_be_estimated_is_a_refusal_of_that_object_alone(rig, tmp_path, monkeypatch):
    r = rig(("detections",), bundle=two_bundles(tmp_path), window_source="tracking", lost_after=2)
    r.send_info()
    image = toy_image(CAMERA, 159.5, 119.5)
    assert [d.id for d in r.send(image_msg(image, 1.0)).detections] == ["toy_box_1", "other_1"]

    def broken(*args):
        raise InputError("window: expected something else, got this")

    with monkeypatch.context() as patch:
        patch.setattr(r.node._targets[0].estimator, "estimate_many", broken)
        for i in range(2):
            assert [d.id for d in r.send(image_msg(image, 2.0 + i)).detections] == ["other_1"]
    assert len(r.wait(r.warnings, "the warning")) == 1
    assert [d.id for d in r.send(image_msg(image, 4.0)).detections] == ["toy_box_2", "other_1"]


def test_detections_of_another_clock_or_class_are_told(rig):
    r = rig(("detections",), window_source="detections")
    r.send_info()
    r.images.publish(image_msg(EMPTY, 100.0))
    r.wait(lambda: r.node.diagnostics.statistics.received)
    for i in range(5):
        r.detections.publish(detections_msg(1.0 + i, ("toy_box", 0.9, 50.0, 50.0)))
        matcher = r.node.detection_input.matcher
        r.wait(lambda n=i, m=matcher: m._detections is not None and m.strays == n, "the detections")
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith("detections_2d.header.stamp: expected the stamp of an image")
    r.detections.publish(detections_msg(100.0, ("cat", 0.9, 50.0, 50.0)))
    _, second = r.wait(lambda: w if len(w := r.warnings()) > 1 else None, "the second warning")
    assert second.startswith("detection_class: expected detections of 'toy_box', got ['cat']")


@pytest.mark.parametrize(
    "parameters", [{}, {"window_source": "tracking", "initial_window": "detections", "lost_after": 1000}]
)
def test_the_newest_frame_wins_and_the_overtaken_are_counted(rig, monkeypatch, parameters):
    r = rig(("detections",), **parameters)
    r.send_info()
    if parameters:  # one object is tracked
        r.images.publish(image_msg(toy_image(CAMERA, 60.0, 60.0), 0.5))
        r.detections.publish(detections_msg(0.5, ("toy_box", 0.9, 60.0, 60.0)))
        r.wait(lambda: r.heard["detections"])
        r.heard["detections"].clear()
    estimator = r.node._targets[0].estimator
    entered, leave = threading.Event(), threading.Event()
    estimate = estimator.estimate_many

    def slow(*args):
        entered.set()
        assert leave.wait(20)
        return estimate(*args)

    monkeypatch.setattr(estimator, "estimate_many", slow)
    # Best effort knows no acknowledgement: a second reader of the topic tells when the frames are through.
    second = r.listen(Image, f"/{r.namespace}/image_raw", "images", qos_profile_sensor_data)
    r.wait(second.get_publisher_count)
    r.wait(lambda: r.images.get_subscription_count() == 2)
    r.images.publish(image_msg(EMPTY, 1.0))
    r.wait(entered.is_set, "the first frame")
    for i in range(2, 8):
        r.images.publish(image_msg(EMPTY, float(i)))
        r.wait(lambda n=i: len(r.heard["images"]) >= n, "the image at the second reader")
    leave.set()
    r.answer("detections", image_msg(EMPTY, 7.0).header.stamp)
    seen = [d.header.stamp.sec for d in r.heard["detections"]]
    assert seen[0] == 1 and seen[-1] == 7
    assert len(seen) + r.node.diagnostics.statistics.dropped == 7
    assert r.node.diagnostics.statistics.dropped >= 1


def test_a_detection_that_is_none_does_not_cost_the_good_one_beside_it(rig):
    r = rig(("detections",), window_source="detections")
    r.send_info()
    nan, inf = float("nan"), float("inf")
    bad = [("toy_box", 0.99, nan, 120.0), ("toy_box", 0.98, 160.0, inf), ("toy_box", nan, 160.0, 120.0)]
    r.detections.publish(detections_msg(1.0, *bad, ("toy_box", 0.9, 159.5, 119.5)))
    answer = r.send(image_msg(toy_image(CAMERA, 159.5, 119.5), 1.0))
    np.testing.assert_allclose(position(answer), truth(159.5, 119.5), atol=2e-3)
    (warning,) = r.wait(r.warnings, "the warning")
    assert warning.startswith("detections_2d.detection: expected a box and scores of finite numbers, got (nan")


def test_a_detection_far_outside_of_the_image_is_no_pose(rig):
    r = rig(("detections",), window_source="detections")
    r.send_info()
    r.detections.publish(detections_msg(1.0, ("toy_box", 0.9, 1e155, 120.0)))
    assert r.send(image_msg(toy_image(CAMERA, 159.5, 119.5), 1.0)).detections == []
