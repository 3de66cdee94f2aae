"""One image in, everything out: what the node publishes is the estimator's own answer."""

import re
from pathlib import Path

import numpy as np
from camera_rig import CAMERA, FRAME, ROOT, detections_msg, image_msg
from toy_bundle import CENTER, MAXIMUM, MINIMUM, toy_image, toy_pose, write_toy_bundle

from fm_pose_core import EstimatorConfig, ObjectPose, PoseEstimator, Window
from fm_pose_core.geometry import apply, quaternion_from_rotation, rotation_from_quaternion, transform
from fm_pose_core.types import Camera

U, V = 200.0, 100.0
HERE = {"window_u": U, "window_v": V}


def reference(
    bundle: Path, camera: Camera = CAMERA, u: float = U, v: float = V, image: np.ndarray | None = None
) -> ObjectPose:
    """What the estimator says without ROS."""
    estimator = PoseEstimator.load(bundle, EstimatorConfig(backend="onnxruntime", threads=1, views=1))
    pose = estimator.estimate(toy_image(camera, u, v) if image is None else image, camera, Window(u, v))
    assert pose.accepted
    return pose


def matrix_of(pose) -> np.ndarray:
    """geometry_msgs/Pose -> (4, 4)."""
    p, q = pose.position, pose.orientation
    return transform(rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([p.x, p.y, p.z]))


def test_publishes_the_estimators_answer_on_every_topic(rig, toy_bundle):
    r = rig(("detections", "pose", "boxes", "markers"), **HERE)
    r.send_info()
    image = image_msg(toy_image(CAMERA, U, V), 12.25)
    expected = reference(toy_bundle)
    detections = r.send(image)
    (detection,) = detections.detections

    assert detections.header == detection.header == image.header
    assert detection.id == "toy_box_1"
    (result,) = detection.results
    assert result.hypothesis.class_id == "toy_box"
    assert result.hypothesis.score == expected.score
    np.testing.assert_allclose(matrix_of(result.pose.pose), expected.T_camera_object, atol=1e-12)
    np.testing.assert_array_equal(result.pose.covariance.reshape(6, 6), expected.covariance)
    np.testing.assert_allclose(matrix_of(result.pose.pose), toy_pose(CAMERA, U, V), atol=5e-3)
    center = matrix_of(detection.bbox.center)
    np.testing.assert_allclose(center[:3, 3], apply(expected.T_camera_object, CENTER[None])[0], atol=1e-12)
    np.testing.assert_allclose([detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z], MAXIMUM - MINIMUM)

    pose = r.answer("pose", image.header.stamp)
    assert pose.header == image.header
    np.testing.assert_allclose(matrix_of(pose.pose), expected.T_camera_object, atol=1e-12)

    (stamped,) = r.wait(lambda: r.heard["tf"])[0].transforms
    assert stamped.header == image.header and stamped.header.frame_id == FRAME
    assert stamped.child_frame_id == "toy_box"
    t, q = stamped.transform.translation, stamped.transform.rotation
    np.testing.assert_allclose([t.x, t.y, t.z], expected.T_camera_object[:3, 3], atol=1e-12)
    np.testing.assert_allclose(
        [q.x, q.y, q.z, q.w], quaternion_from_rotation(expected.T_camera_object[:3, :3]), atol=1e-9
    )

    boxes = r.answer("boxes", image.header.stamp)
    (box,) = boxes.boxes
    assert boxes.header == box.header == image.header
    assert (box.id, box.class_id, box.score) == (detection.id, "toy_box", expected.score)
    np.testing.assert_array_equal(np.column_stack([box.u, box.v]), expected.corners)
    assert box.reprojection_error == expected.reprojection_error

    (marker,) = r.wait(lambda: r.heard["markers"])[0].markers
    assert marker.header == image.header and len(marker.points) == 24
    assert marker.lifetime.sec == 1
    np.testing.assert_allclose(matrix_of(marker.pose), expected.T_camera_object, atol=1e-12)


def test_the_document_makes_grasps_of_what_the_node_publishes(rig, toy_bundle):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ros.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    r = rig(("detections",), **HERE)
    r.send_info()
    message = r.send(image_msg(toy_image(CAMERA, U, V), 12.25))
    above = transform(np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 0.1]))
    (found,) = names["grasps"](message, "toy_box", above, metres=1.0, degrees=180.0)
    np.testing.assert_allclose(found, reference(toy_bundle).T_camera_object @ above, atol=1e-9)
    assert list(names["grasps"](message, "duck", above, 1.0, 180.0)) == []
    assert list(names["grasps"](message, "toy_box", above, 1e-9)) == []


def test_nothing_found_is_an_empty_array_and_no_pose(rig):
    r = rig(("detections", "pose", "boxes", "markers"), **HERE)
    r.send_info()
    empty = r.send(image_msg(np.full((240, 320, 3), 30, np.uint8), 1.0))
    assert empty.detections == []
    assert r.answer("boxes", empty.header.stamp).boxes == []
    r.send(image_msg(toy_image(CAMERA, U, V), 2.0))
    r.wait(lambda: r.heard["pose"])
    assert [p.header.stamp.sec for p in r.heard["pose"]] == [2]
    assert len(r.heard["tf"]) <= 1
    assert r.warnings() == []


def test_a_marker_of_a_lost_object_is_deleted(rig):
    r = rig(("detections", "markers"), **HERE, marker="both")
    r.send_info()
    r.send(image_msg(toy_image(CAMERA, U, V), 1.0))
    r.send(image_msg(np.full((240, 320, 3), 30, np.uint8), 2.0))
    first, second = r.wait(lambda: r.heard["markers"] if len(r.heard["markers"]) > 1 else None)[:2]
    shown = {(m.ns, m.id) for m in first.markers}
    assert {m.ns for m in first.markers} == {"toy_box/box", "toy_box/mesh"}
    assert {(m.ns, m.id) for m in second.markers} == shown
    assert all(m.action == m.DELETE for m in second.markers)
    (mesh,) = [m for m in first.markers if m.type == m.MESH_RESOURCE]
    assert mesh.mesh_resource.startswith("file:///") and mesh.mesh_resource.endswith(".ply")


def test_the_gates_can_be_moved_while_the_node_runs(rig):
    from rclpy.parameter import Parameter

    r = rig(("detections",), **HERE)
    r.send_info()
    pixels = toy_image(CAMERA, U, V)
    assert r.send(image_msg(pixels, 1.0)).detections
    assert all(x.successful for x in r.node.set_parameters([Parameter("min_score", value=1.0)]))
    assert r.send(image_msg(pixels, 2.0)).detections == []
    (refused,) = r.node.set_parameters([Parameter("min_score", value=1.5)])
    assert not refused.successful
    (refused,) = r.node.set_parameters([Parameter("marker", value="cube")])
    assert not refused.successful and "box, mesh, both" in refused.reason
    (refused,) = r.node.set_parameters([Parameter("bundle", value="elsewhere")])
    assert not refused.successful and "read" in refused.reason.lower()
    r.node.set_parameters(
        [Parameter("min_score", value=0.0), Parameter("window_u", value=20.0), Parameter("window_v", value=20.0)]
    )
    assert r.send(image_msg(pixels, 3.0)).detections == []  # looks elsewhere now
    assert r.send(image_msg(toy_image(CAMERA, 20.0, 20.0), 4.0)).detections


def test_every_parameter_has_a_description_and_its_default_from_the_core(rig):
    r = rig(autostart=False)
    own = [
        name
        for name in r.node._parameters
        if not name.startswith(("qos_overrides", "use_sim_time", "start_type_description"))
    ]
    descriptors = r.node.describe_parameters(own)
    assert [d.name for d in descriptors if not d.description] == []
    by_name = {d.name: d for d in descriptors}
    assert by_name["min_score"].floating_point_range[0].to_value == 1.0
    assert by_name["threads"].integer_range[0].from_value == 0
    assert by_name["bundle"].read_only and not by_name["min_score"].read_only
    assert "openvino" in by_name["backend"].additional_constraints
    assert r.node.get_parameter("max_reprojection_error").value == EstimatorConfig().max_reprojection_error


def test_the_overlay_is_drawn_only_for_a_listener(rig, toy_bundle, monkeypatch):
    from sensor_msgs.msg import Image

    import fm_pose_ros.object_pose_node as module

    drawn = []
    draw = module.draw_overlay
    monkeypatch.setattr(module, "draw_overlay", lambda *a: drawn.append(1) or draw(*a))
    r = rig(("detections",), **HERE)
    r.send_info()
    pixels = toy_image(CAMERA, U, V)
    r.send(image_msg(pixels, 1.0))
    assert drawn == []
    r.listen(Image, f"{r.node_name}/overlay", "overlay", 5)
    r.wait(lambda: r.node._overlay.get_subscription_count() and r.peer.count_publishers(f"{r.node_name}/overlay"))
    overlay = r.send(image_msg(pixels, 2.0), "overlay")
    assert (overlay.encoding, overlay.width, overlay.height, overlay.step) == ("rgb8", 320, 240, 960)
    canvas = np.frombuffer(overlay.data, np.uint8).reshape(240, 320, 3)
    corners = reference(toy_bundle).corners
    for u, v in np.rint(corners).astype(int):
        assert (canvas[v - 1 : v + 2, u - 1 : u + 2] != pixels[v - 1 : v + 2, u - 1 : u + 2]).any()
    np.testing.assert_array_equal(canvas[-50:], pixels[-50:])
    green = canvas[tuple(np.rint(corners[0]).astype(int)[::-1])].astype(int)
    assert green[1] > green[0] + 50 and green[1] > green[2] + 50


def test_class_names_reach_late_listeners(rig):
    from camera_rig import LATCHED
    from vision_msgs.msg import LabelInfo, VisionInfo

    r = rig()
    r.listen(LabelInfo, f"{r.node_name}/label_info", "labels", LATCHED)
    r.listen(VisionInfo, f"{r.node_name}/vision_info", "vision", LATCHED)
    (entry,) = r.wait(lambda: r.heard["labels"])[0].class_map
    assert (entry.class_id, entry.class_name) == (1, "toy_box")
    assert r.wait(lambda: r.heard["vision"])[0].method == "fm_pose"


def two_bundles(tmp_path: Path) -> str:
    """The parameter for two objects, toy_box and other."""
    return f"{write_toy_bundle(tmp_path / 'one')}:{write_toy_bundle(tmp_path / 'two', ('other',))}"


def test_two_objects_in_one_node(rig, tmp_path):
    r = rig(bundle=two_bundles(tmp_path), **HERE)
    r.send_info()
    answer = r.send(image_msg(toy_image(CAMERA, U, V), 1.0))
    assert [d.id for d in answer.detections] == ["toy_box_1", "other_1"]
    (message,) = r.wait(lambda: r.heard["tf"])[:1]
    assert [t.child_frame_id for t in message.transforms] == ["toy_box", "other"]
    assert r.peer.count_publishers(f"{r.node_name}/other/pose") == 1


def test_one_bundle_with_two_objects_goes_through_the_network_in_one_batch(rig, tmp_path, monkeypatch):
    bundle = write_toy_bundle(tmp_path / "both", ("toy_box", "other"))
    r = rig(("detections",), bundle=bundle, window_source="tracking", initial_window="detections", max_instances=2)
    r.send_info()
    places = {"toy_box": (60.0, 60.0), "other": (240.0, 180.0)}
    image = np.maximum(*(toy_image(CAMERA, *place) for place in places.values()))
    batches = []
    backend = r.node._targets[0].estimator.backend
    infer = backend.infer
    monkeypatch.setattr(backend, "infer", lambda images: batches.append(len(images)) or infer(images))
    r.images.publish(image_msg(image, 1.0))
    r.detections.publish(detections_msg(1.0, *((name, 0.9, *place) for name, place in places.items())))
    first = r.wait(lambda: r.heard["detections"])[0]
    for answer in (first, r.send(image_msg(image, 2.0))):
        assert [d.id for d in answer.detections] == ["toy_box_1", "other_1"]
        for detection, place in zip(answer.detections, places.values(), strict=True):
            np.testing.assert_allclose(
                matrix_of(detection.results[0].pose.pose)[:3, 3], toy_pose(CAMERA, *place)[:3, 3], atol=0.02
            )
    assert batches == [2, 2]
    for name in places:
        assert r.peer.count_publishers(f"{r.node_name}/{name}/pose") == 1


def test_diagnostics_tell_rate_latency_camera_and_backend(rig):
    r = rig(**HERE)
    r.send_info()
    for i in range(3):
        r.send(image_msg(toy_image(CAMERA, U, V), 1.0 + i))
    status = r.wait(lambda: s if (s := r.status()).get("frames processed") == "3" else None)
    assert status["backend"] == "onnxruntime" and status["state"] == "active"
    assert status["camera_info"].startswith("320x240")
    assert status["frames with an object"] == "3" and status["frames bad"] == "0"
    assert float(status["rate (Hz)"]) > 0
    p50, p95, p99 = (float(status[f"latency, {share} % (ms)"]) for share in (50, 95, 99))
    assert 0 < p50 <= p95 <= p99
