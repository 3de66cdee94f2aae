"""Windows from the bundle's own detector."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from camera_rig import CAMERA, image_msg, info_msg
from test_windows import EMPTY, position, truth
from toy_bundle import toy_image, write_toy_bundle

from fm_pose_core.files import read_image
from fm_pose_core.geometry import apply
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.rendering.mesh import load_mesh

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle with a detector."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "finder", detector=True)


def test_a_bundle_with_a_detector_needs_no_window(rig, finder: Path) -> None:
    """The default: wherever the object appears, in each image anew."""
    r = rig(("detections",), bundle=finder, window_source="auto")
    r.send_info()
    for i, (u, v) in enumerate([(60.0, 50.0), (260.0, 180.0), (40.0, 200.0)]):
        answer = r.send(image_msg(toy_image(CAMERA, u, v), 1.0 + 0.1 * i))
        np.testing.assert_allclose(position(answer), truth(u, v), atol=0.01)
    assert r.send(image_msg(EMPTY, 2.0)).detections == []


def test_several_instances_are_found(rig, finder: Path) -> None:
    r = rig(("detections",), bundle=finder, window_source="auto", max_instances=3)
    r.send_info()
    where = [(60.0, 50.0), (260.0, 180.0)]
    answer = r.send(image_msg(np.maximum(*(toy_image(CAMERA, u, v) for u, v in where)), 1.0))
    assert len(answer.detections) == 2
    found = sorted(tuple(position(answer, k)) for k in range(2))
    np.testing.assert_allclose(found, sorted(tuple(truth(u, v)) for u, v in where), atol=0.01)


def test_tracking_begins_with_the_detector_and_comes_back_to_it(rig, finder: Path) -> None:
    r = rig(("detections",), bundle=finder, window_source="tracking", lost_after=2)
    r.send_info()
    first = r.send(image_msg(toy_image(CAMERA, 60.0, 50.0), 1.0))
    assert first.detections[0].id == "toy_box_1"
    for i in range(3):  # gone: tracked to where it is not, and lost
        assert r.send(image_msg(EMPTY, 1.1 + 0.1 * i)).detections == []
    again = r.send(image_msg(toy_image(CAMERA, 260.0, 180.0), 2.0))
    assert again.detections[0].id == "toy_box_2"
    np.testing.assert_allclose(position(again), truth(260.0, 180.0), atol=0.01)


def test_while_something_is_tracked_the_detector_looks_now_and_then(rig, finder: Path) -> None:
    """A second object is found when search_interval has passed since the detector's last look, and then tracked."""
    r = rig(("detections",), bundle=finder, window_source="tracking", max_instances=2, search_interval=0.5)
    r.send_info()
    one, two = toy_image(CAMERA, 60.0, 50.0), toy_image(CAMERA, 260.0, 180.0)
    found = [len(r.send(image_msg(one, 1.0)).detections)]
    found += [len(r.send(image_msg(np.maximum(one, two), stamp)).detections) for stamp in (1.2, 1.4, 1.6, 1.7)]
    assert found == [1, 1, 1, 2, 2]


def test_the_smallest_score_of_a_detection_can_be_chosen(rig, finder: Path) -> None:
    faint = toy_image(CAMERA, 60.0, 50.0, color=(90, 40, 40))
    for least, count in ((0.05, 1), (0.999, 0)):
        r = rig(("detections",), bundle=finder, window_source="auto", min_detection=least)
        r.send_info()
        assert len(r.send(image_msg(faint, 1.0)).detections) == count


@pytest.mark.parametrize(
    "parameters", [{"window_source": "own"}, {"window_source": "tracking", "initial_window": "own"}]
)
def test_own_windows_without_a_detector_are_refused(rig, parameters: dict[str, str]) -> None:
    r = rig(("detections",), connected=False, **parameters)
    (error,) = r.wait(r.warnings, "the error")
    assert "expected a bundle with a detector, got one without" in error


def test_a_bundle_of_the_package_is_known_by_its_name(rig) -> None:
    """Beside the folder of another one; tugboat and duck are names in `models`."""
    r = rig(("detections",), bundle="tugboat:duck")
    assert r.wait(r.states)[-1].hardware_id == "tugboat, duck"


def test_eight_objects_and_their_masks_from_one_photograph(rig) -> None:
    """With the real bundle: all visible objects are found, most of them where they are, and each mask covers its
    object's outline and little else. What others hide is not in the mask."""
    dataset, image_id = BopDataset(ROOT / "demo" / "scene"), 47
    shown = [x for x in dataset.instances("test") if x.im_id == image_id and x.visible_fraction > 0.5]
    bundle = ObjectBundle.load(ROOT / "models" / "lmo")
    r = rig(("detections", "masks"), bundle=bundle.path, window_source="auto")
    camera = shown[0].camera
    r.send_info(info_msg(camera))
    r.images.publish(image := image_msg(read_image(shown[0].image_path), 1.0))
    detections, masks = (r.answer(topic, image.header.stamp) for topic in ("detections", "masks"))
    labels = np.frombuffer(masks.data, np.uint8).reshape(masks.height, masks.width)
    assert masks.encoding == "mono8" and labels.max() <= len(detections.detections)
    places = {d.results[0].hypothesis.class_id: k for k, d in enumerate(detections.detections, 1)}
    right, agreed = 0, []
    for x in shown:
        thing = next(t for t in bundle.objects if t.object_id == x.object_id)
        if thing.name not in places:
            continue
        right += bool(np.linalg.norm(position(detections, places[thing.name] - 1) - x.T_camera_object[:3, 3]) < 0.05)
        mesh = load_mesh(thing.mesh_path)
        outline = np.zeros(labels.shape, np.uint8)
        triangles = np.rint(camera.pixels(apply(x.T_camera_object, mesh.vertices))[mesh.faces]).astype(np.int32)
        for triangle in triangles:
            cv2.fillConvexPoly(outline, triangle, 1)
        mask = labels == places[thing.name]
        agreed.append((mask & (outline > 0)).sum() / (mask | (outline > 0)).sum())
    assert len(shown) >= 6 and len(agreed) >= len(shown) - 1 and right >= len(shown) - 2
    assert np.median(agreed) > 0.7, agreed
