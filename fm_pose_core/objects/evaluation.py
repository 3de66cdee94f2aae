"""Evaluation over a BOP dataset: choose the instances, predict, score. Pictures are made by `report`.

instances = select_instances(dataset, "test", [9])
predictions = predict(instances, {9: estimator}, true_windows(dataset, instances))
evaluation = score(dataset, instances, predictions)
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fm_pose_core.errors import expect
from fm_pose_core.files import Frames, read_image
from fm_pose_core.geometry import Array
from fm_pose_core.objects.bop import MM, BopDataset, Instance, Key, ObjectModel, Result, key, relabelled
from fm_pose_core.objects.cases import Case, Evaluation, Prediction, mean_summary, summarise
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.metrics import pose_errors
from fm_pose_core.objects.windows import displaced, match_windows, read_windows, true_windows
from fm_pose_core.rendering.mesh import read_vertices
from fm_pose_core.types import Camera, ObjectPose, Window

LEAST_LIKELY = 0.05  # score from which on a detection counts, where it is known that the object is there


class Estimator(Protocol):
    """What `predict` needs of an estimator; PoseEstimator has it."""

    def estimate_many(
        self, image: NDArray[np.uint8], camera: Camera, windows: Sequence[Window]
    ) -> list[ObjectPose]: ...


@dataclass(frozen=True)
class OfObject:
    """An estimator for one of the objects that it knows. name: of the object; empty for the only one."""

    estimator: Estimator
    name: str = ""


def evaluate_bop(
    dataset: BopDataset,
    split: str,
    estimators: Mapping[int, OfObject],
    *,
    window: str = "gt",
    displace: float = 0.0,
    seed: int = 0,
    frames: Frames | None = None,
    min_visibility: float = 0.1,
    all_instances: bool = False,
    keep_rejected: bool = False,
    show_progress: bool = False,
) -> Evaluation:
    """Estimate and score the poses of the objects that `estimators` (by object id) know.

    window: "gt" for the projected centre of the object's box, "detect" for the bundles' own detectors, or a file of 2D
    detections (`read_windows`). With "detect", a pose counts however unsure it is (`keep_rejected`): as in BOP's task,
    it is known which objects an image shows, and the pose at the likeliest window is the answer. displace: pixels, see
    `displaced`. The rest as in `select_instances` and `predict`. Raises InputError for a dataset, split, object or file
    that is missing or broken.
    """
    instances, notes = select_instances(
        dataset, split, estimators, frames=frames, min_visibility=min_visibility, all_instances=all_instances
    )
    spent: dict[Path, float] = {}
    if window == "gt":
        windows: list[Window | None] = true_windows(dataset, instances)
    elif window == "detect":
        found, spent = detect_windows(instances, estimators, show_progress=show_progress)
        windows = match_windows(instances, found)
    else:
        windows = match_windows(instances, read_windows(window))
    if displace:
        windows = displaced(instances, windows, displace, seed)
    keep = keep_rejected or window == "detect"
    predictions = predict(instances, estimators, windows, keep_rejected=keep, show_progress=show_progress, spent=spent)
    settings = {
        "root": str(dataset.root),
        "split": split,
        "window": window,
        "displace_px": displace,
        "seed": seed,
        "min_visibility": None if all_instances else min_visibility,
        "all_instances": all_instances,
        "keep_rejected": keep,
    }
    return score(dataset, instances, predictions, settings, notes)


def evaluate_results(
    dataset: BopDataset,
    split: str,
    results: Sequence[Result],
    object_ids: Iterable[int] | None = None,
    *,
    frames: Frames | None = None,
    min_visibility: float = 0.1,
    all_instances: bool = False,
) -> Evaluation:
    """Score a result file (bop.read_results); its time is per image. Otherwise as `evaluate_bop`."""
    instances, notes = select_instances(
        dataset, split, object_ids, frames=frames, min_visibility=min_visibility, all_instances=all_instances
    )
    predictions = [Prediction(r, r.time if r.time >= 0 else float("nan")) for r in results]
    settings = {
        "root": str(dataset.root),
        "split": split,
        "min_visibility": None if all_instances else min_visibility,
        "all_instances": all_instances,
    }
    return score(dataset, instances, predictions, settings, notes)


def against(evaluation: Evaluation, dataset: BopDataset, labels: str | Path) -> Evaluation:
    """The same predictions scored against other labels (bop.relabelled); instances without one do not count."""
    own = [case.instance for case in evaluation.cases]
    others = relabelled(own, labels)
    expect(bool(others), str(labels), "labels of some of the instances", "none")
    predictions = [case.prediction for case in evaluation.cases if case.prediction is not None]
    left_out = f"{len(own) - len(others)} of {len(own)} instances have no such label and do not count"
    notes = (*evaluation.notes, *([left_out] if len(others) < len(own) else []))
    return score(dataset, others, predictions, {**evaluation.settings, "labels": str(labels)}, notes)


# --- which instances -------------------------------------------------------------------------------------------------


def select_instances(
    dataset: BopDataset,
    split: str,
    object_ids: Iterable[int] | None = None,
    *,
    frames: Frames | None = None,
    min_visibility: float = 0.1,
    all_instances: bool = False,
) -> tuple[list[Instance], tuple[str, ...]]:
    """The instances to score, and notes for the reader.

    With a targets file (test_targets_bop19.json): its targets, in the images that are there. Without one, or if none of
    its images is there: the instances that are at least `min_visibility` visible (where the dataset tells). With
    `all_instances`: all of them. frames: those images alone. Raises InputError if none is left.
    """
    instances = dataset.instances(split)
    expect(bool(instances), f"split {split!r} of {dataset.root}", "annotated instances", "none")
    images = {(i.scene_id, i.im_id) for i in instances}
    notes: tuple[str, ...] = ()
    if not all_instances:
        instances, notes = _targets_or_visible(dataset, split, instances, min_visibility)
    if object_ids is not None:
        wanted = set(object_ids)
        for object_id in wanted:
            dataset.model(object_id)
        instances = [i for i in instances if i.object_id in wanted]
    if frames is not None:
        images = frames.of(images)
        instances = [i for i in instances if (i.scene_id, i.im_id) in images]
    chosen = "the choice of objects, frames and visibility"
    expect(bool(instances), chosen, f"at least one instance of those in {split!r}", "none")
    return instances, notes


def _targets_or_visible(
    dataset: BopDataset, split: str, instances: Sequence[Instance], min_visibility: float
) -> tuple[list[Instance], tuple[str, ...]]:
    """The targets among the instances; where none is, those that are visible enough, and a note."""
    targets = dataset.targets()
    chosen = [i for i in instances if targets is not None and key(i) in targets]
    if chosen:
        return chosen, ()
    notes: tuple[str, ...] = ()
    if targets is not None:
        what = f"all instances at least {100 * min_visibility:g} % visible count"
        notes = (f"no target of the dataset's targets file is in split {split!r}: {what}",)
    return [i for i in instances if not i.visible_fraction < min_visibility], notes


# --- predict ---------------------------------------------------------------------------------------------------------


def detect_windows(
    instances: Sequence[Instance], estimators: Mapping[int, OfObject], *, show_progress: bool = False
) -> tuple[dict[Key, list[tuple[float, Window]]], dict[Path, float]]:
    """What the bundles' own detectors find in the instances' images, as `read_windows` gives it, and the seconds that
    it took in each image. As BOP's task tells which objects an image shows, also what is less likely than an estimator
    would take by itself. Raises InputError for a bundle without a detector."""
    finders = {id(x.estimator): x.estimator for x in estimators.values()}
    images = {x.image_path: x for x in instances}
    found: dict[Key, list[tuple[float, Window]]] = defaultdict(list)
    spent: dict[Path, float] = defaultdict(float)
    for estimator in finders.values():
        able = isinstance(estimator, PoseEstimator)
        expect(able, "--window detect", "bundles with a detector", type(estimator).__name__)
        assert isinstance(estimator, PoseEstimator)
        ids = {x.name: x.object_id for x in estimator.bundle.objects}
        detector, warm = estimator.detector, False
        for path, x in tqdm(images.items(), "detect", unit="image", disable=not show_progress):
            image = read_image(path)
            if not warm:
                detector.detect(image, x.camera, LEAST_LIKELY)
                warm = True
            start = time.perf_counter()
            windows = detector.detect(image, x.camera, LEAST_LIKELY)
            spent[path] += time.perf_counter() - start
            for one in windows:
                found[x.scene_id, x.im_id, ids[one.window.object]].append((one.score, one.window))
    return found, spent


def predict(
    instances: Sequence[Instance],
    estimators: Mapping[int, OfObject],
    windows: Sequence[Window | None],
    *,
    keep_rejected: bool = False,
    show_progress: bool = False,
    spent: Mapping[Path, float] | None = None,
) -> list[Prediction]:
    """One prediction for each instance that has a window; each image is read once, and each estimator is asked once
    for all of its objects in an image.

    With `keep_rejected`, poses that the estimator's gate refused count as accepted (a refused solution without any
    pose stays refused). The results' time is that of all estimates in their image, as BOP wants it, with the seconds
    that were `spent` on it before; a prediction's seconds are its share of the call.
    """
    asked: dict[Path, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, instance in enumerate(instances):
        if windows[index] is not None:
            asked[instance.image_path][id(estimators[instance.object_id].estimator)].append(index)
    predictions: list[Prediction] = []
    warm: set[tuple[int, str]] = set()
    for path, calls in tqdm(asked.items(), "evaluate", unit="image", disable=not show_progress):
        image = read_image(path)
        made = []
        for indices in calls.values():
            own = [instances[i] for i in indices]
            known = [estimators[x.object_id] for x in own]
            named = [replace(w, object=x.name) for w, x in zip([windows[i] for i in indices], known, strict=True) if w]
            poses, seconds = _timed(known[0].estimator, image, own[0].camera, named, warm)
            made += [(x, pose, seconds / len(own)) for x, pose in zip(own, poses, strict=True)]
        total = sum(seconds for _, _, seconds in made) + (spent or {}).get(path, 0.0)
        for instance, pose, seconds in made:
            accepted = pose.accepted or (keep_rejected and bool(np.isfinite(pose.reprojection_error)))
            result = Result(*key(instance), pose.score, pose.T_camera_object, total)
            predictions.append(Prediction(result, seconds, accepted, pose.reason))
    return predictions


def _timed(
    estimator: Estimator,
    image: NDArray[np.uint8],
    camera: Camera,
    windows: Sequence[Window],
    warm: set[tuple[int, str]],
) -> tuple[list[ObjectPose], float]:
    """The poses and the seconds of the call. warm: ids of estimators, and the objects that they were asked about."""
    asked = {(id(estimator), window.object) for window in windows}
    if not asked <= warm:  # the first call for an object sets engine and refiner up; it is not timed
        warm |= asked
        estimator.estimate_many(image, camera, windows)
    start = time.perf_counter()
    poses = estimator.estimate_many(image, camera, windows)
    return poses, time.perf_counter() - start


# --- score -----------------------------------------------------------------------------------------------------------


def score(
    dataset: BopDataset,
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    settings: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Judge each instance. Of the predictions for the same object in the same image, the best by score count, as many
    as there are instances; each goes to the instance that it fits best and that has none yet."""
    truths: dict[Key, list[int]] = defaultdict(list)
    for index, instance in enumerate(instances):
        truths[key(instance)].append(index)
    answers: dict[Key, list[Prediction]] = defaultdict(list)
    for p in predictions:
        answers[key(p.result)].append(p)

    cases = [Case(i, None, None) for i in instances]
    for k, indices in truths.items():
        best = sorted(answers[k], key=lambda p: (not p.accepted, -p.result.score))[: len(indices)]
        for index, case in _assign(dataset.model(k[2]), instances, indices, best):
            cases[index] = case

    groups: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.instance.object_id].append(case)
    objects = {k: summarise(f"{k} {dataset.model(k).name}", groups[k]) for k in sorted(groups)}
    return Evaluation(tuple(cases), objects, mean_summary(list(objects.values())), settings or {}, notes)


def _assign(
    model: ObjectModel, instances: Sequence[Instance], indices: Iterable[int], predictions: Sequence[Prediction]
) -> Iterator[tuple[int, Case]]:
    """Each prediction with the index of the instance that it fits best among those of `indices` that have none yet."""
    left, vertices = list(indices), model_vertices(model)
    for p in predictions:
        candidates = []
        for index in left:
            truth = instances[index]
            errors = pose_errors(
                p.result.T_camera_object,
                truth.T_camera_object,
                vertices,
                model.diameter,
                truth.camera,
                model.symmetries,
            )
            candidates.append((errors.projection_2d, errors.add, index, errors))
        *_, index, errors = min(candidates, key=lambda c: c[:3])
        left.remove(index)
        yield index, Case(instances[index], p, errors)


def model_vertices(model: ObjectModel) -> Array:
    """(N, 3) vertices in metres, of models_eval/ where that exists (what the BOP challenge scores with)."""
    root, name = model.mesh_path.parents[1], model.mesh_path.name
    path = next((p for p in (root / "models_eval" / name, model.mesh_path) if p.is_file()), None)
    expect(path is not None, str(root), f"{name} in models_eval/ or models/", "none")
    return _cached_vertices(path, path.stat().st_mtime_ns) * MM  # type: ignore[union-attr]


@cache
def _cached_vertices(path: Path, changed: int) -> Array:
    return read_vertices(path)
