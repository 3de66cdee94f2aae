"""Evaluation of a dataset: which instances count, where the windows are, who is judged by what, and the report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bop
from tiny_bop import BLUE, FRAMES, HIDDEN

from fm_pose_core.errors import InputError
from fm_pose_core.files import Frames
from fm_pose_core.geometry import Array, exp_so3, transform
from fm_pose_core.objects import windows as windowing
from fm_pose_core.objects.bop import BopDataset, Result
from fm_pose_core.objects.evaluation import OfObject, against, evaluate_bop, evaluate_results, select_instances
from fm_pose_core.objects.report import choose_cases, score_bins, write_report
from fm_pose_core.types import Camera, ObjectPose, Window


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> BopDataset:
    return BopDataset(tiny_bop.write_tiny_bop(tmp_path_factory.mktemp("data") / "tiny"))


class FakeEstimator:
    """Knows the truth of object 2; turns it by `degrees`, and refuses it in `refused` frames. Keeps the windows it
    saw."""

    def __init__(self, degrees: float = 0.0, refused: tuple[int, ...] = (), reprojection_error: float = 1.0) -> None:
        self.degrees, self.refused, self.reprojection_error = degrees, refused, reprojection_error
        self.windows: list[Window] = []
        self.calls: list[list[str]] = []  # the objects that were asked for

    def estimate_many(self, image: Array, camera: Camera, windows: list[Window]) -> list[ObjectPose]:
        self.windows += windows
        self.calls.append([window.object for window in windows])
        return [self.estimate(camera, window) for window in windows]

    def estimate(self, camera: Camera, window: Window) -> ObjectPose:
        center = {im: camera.pixels(tiny_bop.brick_pose(im)[None, :3, 3])[0] for im in FRAMES}
        im_id = min(FRAMES, key=lambda im: float(np.hypot(*(center[im] - [window.u, window.v]))))
        T = tiny_bop.brick_pose(im_id) @ transform(exp_so3(np.deg2rad([self.degrees, 0, 0])), np.zeros(3))
        accepted = im_id not in self.refused
        return ObjectPose(
            T, np.zeros((8, 2)), self.reprojection_error, np.eye(6), 0.9, accepted, "" if accepted else "fake"
        )


def ids(instances: list) -> list[tuple[int, int]]:
    return [(i.im_id, i.object_id) for i in instances]


def test_the_targets_choose(dataset: BopDataset, tmp_path: Path) -> None:
    assert ids(select_instances(dataset, "test")[0]) == [(im, o) for im in (2, 3, 5) for o in (1, 2)]
    assert ids(select_instances(dataset, "test", [1], frames=Frames.parse("3-5"))[0]) == [(3, 1), (5, 1)]
    assert len(select_instances(dataset, "test", all_instances=True)[0]) == 8


def test_without_targets_the_visibility_chooses(tmp_path: Path) -> None:
    seen = BopDataset(tiny_bop.write_tiny_bop(tmp_path / "seen", targets=False))
    assert ids(select_instances(seen, "test", [1])[0]) == [(2, 1), (3, 1), (5, 1)]
    assert len(select_instances(seen, "test", [1], min_visibility=0.01)[0]) == 4
    unknown = BopDataset(tiny_bop.write_tiny_bop(tmp_path / "unknown", targets=False, gt_info=False))
    assert len(select_instances(unknown, "test", [1])[0]) == 4


def test_targets_of_other_images_are_left_aside_with_a_note(tmp_path: Path) -> None:
    root = tiny_bop.write_tiny_bop(tmp_path / "tiny")
    (root / "test_targets_bop19.json").write_text('[{"scene_id": 1, "im_id": 77, "obj_id": 1, "inst_count": 1}]')
    instances, notes = select_instances(BopDataset(root), "test", [1])
    assert len(instances) == 3 and "no target" in notes[0]


def test_an_empty_choice_is_an_error(dataset: BopDataset) -> None:
    with pytest.raises(InputError, match="at least one instance"):
        select_instances(dataset, "test", frames=Frames.parse("100-200"))
    with pytest.raises(InputError, match="object id"):
        select_instances(dataset, "test", [9])


def test_frames_of_several_scenes(tmp_path: Path) -> None:
    """Each scene counts its images from 0, so an image id alone is none."""
    root = tiny_bop.write_tiny_bop(tmp_path / "tiny")
    shutil.copytree(root / "test" / "000001", root / "test" / "000004")
    dataset = BopDataset(root)
    chosen, _ = select_instances(dataset, "test", [1], frames=Frames.parse("1/3-5,4/2"), all_instances=True)
    assert [(i.scene_id, i.im_id) for i in chosen] == [(1, 3), (1, 4), (1, 5), (4, 2)]
    with pytest.raises(InputError, match=r"SCENE/IDS such as 1/3-248 in a split with scenes 1, 4, got '3-5'"):
        select_instances(dataset, "test", [1], frames=Frames.parse("4/2,3-5"))


def test_the_true_window_is_the_projected_centre_of_the_box(dataset: BopDataset) -> None:
    instances, _ = select_instances(dataset, "test", [1])
    for instance, window in zip(instances, windowing.true_windows(dataset, instances), strict=True):
        assert window is not None
        assert (window.u, window.v) == pytest.approx(FRAMES[instance.im_id], abs=1e-6)


def test_displacement_is_uniform_in_the_disc_and_belongs_to_the_instance(dataset: BopDataset) -> None:
    instances, _ = select_instances(dataset, "test")
    windows = windowing.true_windows(dataset, instances)
    moved = windowing.displaced(instances, windows, 10.0, seed=1)
    assert moved == windowing.displaced(instances, windows, 10.0, seed=1)
    assert moved[2:4] == windowing.displaced(instances[2:4], windows[2:4], 10.0, seed=1)  # whatever else is evaluated
    assert moved != windowing.displaced(instances, windows, 10.0, seed=2)
    offsets = np.array(
        [(w.u, w.v) for s in range(300) for w in windowing.displaced(instances[:1], [Window(0, 0)], 10.0, s) if w]
    )
    radii = np.hypot(*offsets.T)
    assert radii.max() <= 10
    assert np.mean(radii < 10 / np.sqrt(2)) == pytest.approx(0.5, abs=0.1)  # half of the area, half of the draws
    assert np.abs(offsets.mean(0)).max() < 1.0


def test_windows_from_detections(dataset: BopDataset, tmp_path: Path) -> None:
    detections = [
        {"scene_id": 1, "image_id": 2, "category_id": 1, "score": 0.2, "bbox": [0, 0, 11, 21]},
        {"scene_id": 1, "image_id": 2, "category_id": 1, "score": 0.9, "bbox": [100, 50, 21, 11]},
    ]
    (tmp_path / "d.json").write_text(json.dumps(detections))
    (tmp_path / "d.csv").write_text("scene_id,im_id,obj_id,u,v\n1,2,1,110,55\n")
    instances, _ = select_instances(dataset, "test", [1])
    for name in ("d.json", "d.csv"):
        assert windowing.match_windows(instances, windowing.read_windows(tmp_path / name)) == [
            Window(110, 55),
            None,
            None,
        ]
    for content in ("[{}]", "{", '[{"scene_id": 1, "image_id": 2, "category_id": 1, "bbox": [1]}]'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=r"bad\.json.*: expected"):
            windowing.read_windows(tmp_path / "bad.json")
    with pytest.raises(InputError, match='"gt" or a'):
        windowing.read_windows("truth")


def test_a_perfect_and_a_turned_estimator(dataset: BopDataset) -> None:
    perfect = evaluate_bop(dataset, "test", {2: OfObject(FakeEstimator())}).objects[2]
    assert (perfect.count, perfect.answered, perfect.projection, perfect.add, perfect.cm_deg) == (3, 3, 1, 1, 1)
    turned = evaluate_bop(dataset, "test", {2: OfObject(FakeEstimator(6.0))}).objects[2]
    assert (turned.projection, turned.add, turned.cm_deg) == (1, 1, 0)
    assert np.rad2deg(turned.rotation) == pytest.approx(6.0, abs=1e-5)


def test_rejected_poses_are_absent_unless_kept(dataset: BopDataset) -> None:
    rejecting = evaluate_bop(dataset, "test", {2: OfObject(FakeEstimator(refused=(3,)))})
    assert [c.status for c in rejecting.cases] == ["scored", "rejected", "scored"]
    assert rejecting.objects[2].projection == pytest.approx(2 / 3)
    assert [r.im_id for r in rejecting.results()] == [2, 5]
    assert rejecting.to_json()["instances"][1]["reason"] == "fake"
    kept = evaluate_bop(dataset, "test", {2: OfObject(FakeEstimator(refused=(3,)))}, keep_rejected=True)
    assert kept.objects[2].projection == 1 and len(kept.results()) == 3
    # A refusal without any pose has none to keep.
    poseless = evaluate_bop(
        dataset, "test", {2: OfObject(FakeEstimator(refused=(3,), reprojection_error=np.inf))}, keep_rejected=True
    )
    assert len(poseless.results()) == 2


def test_the_first_call_is_not_timed_and_displaced_windows_arrive(dataset: BopDataset) -> None:
    estimator = FakeEstimator()
    evaluation = evaluate_bop(dataset, "test", {2: OfObject(estimator)}, displace=5.0, seed=3)
    assert estimator.windows[0] == estimator.windows[1]
    assert len(estimator.windows) == 4
    assert evaluation.settings["displace_px"] == 5.0
    times = [r.time for r in evaluation.results()]
    assert all(0 < t < 1 for t in times)


def test_an_estimator_is_asked_once_for_all_objects_of_an_image(dataset: BopDataset) -> None:
    both, other = FakeEstimator(), FakeEstimator()
    evaluation = evaluate_bop(dataset, "test", {1: OfObject(both, "a"), 2: OfObject(both, "b")})
    assert both.calls == [["a", "b"]] * 4  # the first image twice: it is not timed then
    assert [c.prediction is not None for c in evaluation.cases] == [True] * 6
    assert len({r.time for r in evaluation.results()}) == 3  # of the image
    apart = evaluate_bop(dataset, "test", {1: OfObject(both, "a"), 2: OfObject(other, "b")})
    assert both.calls[4:] == [["a"]] * 4 and other.calls == [["b"]] * 4
    assert len(apart.cases) == len(evaluation.cases) == 6


def results(dataset: BopDataset, degrees: dict[int, float]) -> list[Result]:
    """Object 1 in the given frames, turned."""
    spin = {im: transform(exp_so3(np.deg2rad([0, d, 0])), np.zeros(3)) for im, d in degrees.items()}
    return [Result(1, im, 1, 1 - d / 100, tiny_bop.truth(im, 1) @ spin[im], 0.02) for im, d in degrees.items()]


def test_known_scores_from_a_result_file(dataset: BopDataset) -> None:
    """One right, one off by 90°, one absent; the hidden one does not count."""
    given = [
        *results(dataset, {2: 0.0, 3: 90.0, HIDDEN: 0.0}),
        Result(1, 2, 2, 1.0, tiny_bop.truth(2, 2) @ tiny_bop.HALF_TURN),
    ]
    evaluation = evaluate_results(dataset, "test", given)
    duck, brick = evaluation.objects[1], evaluation.objects[2]
    for share in (duck.projection, duck.add, duck.cm_deg, brick.projection, brick.add, brick.cm_deg):
        assert share == pytest.approx(1 / 3)
    assert (duck.count, duck.answered, brick.answered) == (3, 2, 1)
    assert np.rad2deg(duck.rotation) == pytest.approx(45) and brick.rotation == pytest.approx(0, abs=1e-9)
    assert evaluation.mean.projection == pytest.approx(1 / 3) and evaluation.mean.count == 6
    assert duck.latency == pytest.approx(0.02) and np.isnan(brick.latency)
    assert "1 obj_000001" in evaluation.table() and "33.3" in evaluation.table()


def test_the_best_score_of_several_predictions_counts(dataset: BopDataset) -> None:
    good, bad = results(dataset, {2: 0.0})[0], results(dataset, {2: 60.0})[0]  # scores 1 and 0.4
    assert evaluate_results(dataset, "test", [bad, good], [1]).objects[1].projection == pytest.approx(1 / 3)
    worse = Result(1, 2, 1, 2.0, bad.T_camera_object)
    assert evaluate_results(dataset, "test", [worse, good], [1]).objects[1].projection == 0


def test_two_instances_of_one_object_are_matched(tmp_path: Path) -> None:
    root = tiny_bop.write_tiny_bop(tmp_path / "tiny", targets=False)
    path = root / "test" / "000001" / "scene_gt.json"
    truths = json.loads(path.read_text())
    truths["2"] = [truths["2"][1], {**truths["2"][1], "cam_t_m2c": [200, 100, 900]}]
    path.write_text(json.dumps(truths))
    second = transform(tiny_bop.truth(2, 1)[:3, :3], np.array([0.2, 0.1, 0.9]))
    given = [Result(1, 2, 1, 0.5, tiny_bop.truth(2, 1)), Result(1, 2, 1, 0.9, second), Result(1, 2, 1, 0.1, np.eye(4))]
    evaluation = evaluate_results(BopDataset(root), "test", given, [1], frames=Frames.parse("2"))
    assert [c.status for c in evaluation.cases] == ["scored", "scored"]
    assert evaluation.objects[1].projection == 1


def test_json_is_plain(dataset: BopDataset) -> None:
    evaluation = evaluate_results(dataset, "test", [Result(1, 2, 1, 1.0, np.eye(4))])
    text = json.dumps(evaluation.to_json(), allow_nan=False)  # no NaN, no Infinity
    values = json.loads(text)
    assert values["instances"][0]["projection_2d_px"] is None
    assert values["instances"][1]["status"] == "absent"
    assert set(values["objects"]) == {"1", "2"} and values["mean"]["count"] == 6


def test_the_report_stands_alone(dataset: BopDataset, tmp_path: Path) -> None:
    evaluation = evaluate_results(dataset, "test", results(dataset, {2: 0.0, 3: 3.0}))
    path = write_report(evaluation, dataset, tmp_path / "report", title="A <b> title")
    page = path.read_text()
    assert "A &lt;b&gt; title" in page and "<script" not in page
    assert 'src="data:image/jpeg' in page and 'src="http' not in page and 'href="' not in page
    assert len(page) < 500_000
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["mean"]["count"] == 6


def test_accuracy_against_visible_fraction(dataset: BopDataset, tmp_path: Path) -> None:
    """One image of four shows 5 % of each object."""
    evaluation = evaluate_results(dataset, "test", results(dataset, {2: 0.0, 3: 90.0, 4: 0.0}), all_instances=True)
    hidden, shown = evaluation.by_visibility()
    assert (hidden.name, hidden.count, shown.name, shown.count) == ("0–20 % visible", 2, "80–100 % visible", 6)
    found = evaluate_results(dataset, "test", results(dataset, {2: 0.0, 3: 90.0, 4: 0.0}), [1], all_instances=True)
    assert [s.projection for s in found.by_visibility()] == [1.0, pytest.approx(1 / 3)]
    assert "Accuracy against visible fraction" in write_report(evaluation, dataset, tmp_path / "report").read_text()
    assert len(evaluation.to_json()["by_visibility"]) == 2


def test_pictures_are_shown_once(dataset: BopDataset) -> None:
    cases = evaluate_results(dataset, "test", results(dataset, {2: 0.0, 3: 3.0})).cases
    chosen = choose_cases(cases)
    assert [len(chosen[k]) for k in ("Best", "Median", "Worst", "Without an answer")] == [1, 1, 0, 4]
    shown = [id(c) for group in chosen.values() for c in group]
    assert len(shown) == len(set(shown))


def test_calibration_bins(dataset: BopDataset) -> None:
    evaluation = evaluate_results(dataset, "test", results(dataset, {2: 0.0, 3: 90.0, BLUE: 4.0}), [1])
    low, middle, high = score_bins(evaluation, bins=3)
    assert (low["score"], middle["score"], high["score"]) == (
        pytest.approx(0.1),
        pytest.approx(0.96),
        pytest.approx(1.0),
    )
    assert low["mean_error"] > middle["mean_error"] > high["mean_error"]
    assert (low["correct"], high["correct"]) == (0, 1)
    assert evaluation.score_correlation == pytest.approx(-1)


def test_the_same_predictions_against_other_labels(dataset: BopDataset, tmp_path: Path) -> None:
    """An estimator that is right by the dataset's labels is 8 cm off by the others, which do not have every image."""
    truths = json.loads((dataset.root / "test" / "000001" / "scene_gt.json").read_text())
    moved = {image: truths[image] for image in ("2", "3")}
    for entries in moved.values():
        for truth in entries:
            truth["cam_t_m2c"][2] += 80.0
    (tmp_path / "gt.json").write_text(json.dumps(moved))
    own = evaluate_bop(dataset, "test", {2: OfObject(FakeEstimator())})
    others = against(own, dataset, tmp_path / "gt.json")
    assert own.mean.cm_deg == 1.0 and own.mean.translation == pytest.approx(0.0, abs=1e-9)
    assert others.mean.cm_deg == 0.0 and others.mean.translation == pytest.approx(0.08)
    assert (own.mean.count, others.mean.count) == (3, 2)
    assert others.notes[-1] == "1 of 3 instances have no such label and do not count"
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(InputError, match="labels of some of the instances, got none"):
        against(own, dataset, tmp_path / "empty.json")
