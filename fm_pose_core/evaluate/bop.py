"""Evaluation over a BOP dataset: choose the instances, predict, score. Pictures are made by `report`.

instances = select_instances(dataset, "test", [9])
predictions = predict(instances, {9: estimator}, true_windows(dataset, instances))
evaluation = score(dataset, instances, predictions)
"""

import csv
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fm_pose_core import progress
from fm_pose_core.data.bop import MM, BopDataset, Instance, ObjectModel, Result, read_image
from fm_pose_core.errors import InputError, expect
from fm_pose_core.evaluate.metrics import PoseErrors, pose_errors, rank_correlation
from fm_pose_core.geometry import Array, apply
from fm_pose_core.types import Camera, ObjectPose, Window

Key = tuple[int, int, int]  # scene_id, im_id, object_id


class Estimator(Protocol):
    """What `predict` needs of an estimator; PoseEstimator has it, and so may a network in training."""

    def estimate(self, image: NDArray[np.uint8], camera: Camera, window: Window) -> ObjectPose: ...


@dataclass(frozen=True)
class Prediction:
    """An estimate in the terms of a result file. seconds: what it took, NaN if unknown. A prediction that is not
    accepted is no answer: it is reported with its `reason`, but counts as absent."""

    result: Result
    seconds: float = float("nan")
    accepted: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """One instance and what was predicted for it, if anything. errors: None where there is no prediction."""

    instance: Instance
    prediction: Prediction | None
    errors: PoseErrors | None

    @property
    def status(self) -> str:
        """scored, rejected (by the estimator's own gate) or absent; the last two count as failures."""
        if self.prediction is None:
            return "absent"
        return "scored" if self.prediction.accepted else "rejected"

    @property
    def counted(self) -> PoseErrors | None:
        return self.errors if self.status == "scored" else None


@dataclass(frozen=True)
class Summary:
    """One row of the table. count: instances; answered: those with an accepted prediction. projection, add, cm_deg: share
    of correct poses in [0, 1] among all instances (2D projection below 5 px, ADD(-S) below 10 % of the diameter, 5 cm
    5°). rotation (radians) and translation (metres): medians over the answered. latency, latency_p95: seconds."""

    name: str
    count: int
    answered: int
    projection: float
    add: float
    cm_deg: float
    rotation: float
    translation: float
    latency: float
    latency_p95: float


@dataclass(frozen=True)
class Evaluation:
    """cases: every instance, by scene, image and object. objects: a Summary for each object id. mean: over the objects.
    settings: how it was made. notes: what a reader must know (e.g. that targets were ignored)."""

    cases: tuple[Case, ...]
    objects: dict[int, Summary]
    mean: Summary
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def score_correlation(self) -> float:
        """Spearman's rank correlation of score and 2D projection error over the answered; -1 is a perfect score."""
        pairs = self.scores_and_errors()
        return rank_correlation(pairs[:, 0], pairs[:, 1])

    def scores_and_errors(self) -> Array:
        """(N, 2): score and 2D projection error in pixels of the answered."""
        rows = [(c.prediction.result.score, c.counted.projection_2d) for c in self.cases if c.prediction and c.counted]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def results(self) -> list[Result]:
        """What belongs into a result file: the accepted predictions."""
        return [c.prediction.result for c in self.cases if c.prediction and c.prediction.accepted]

    def table(self) -> str:
        """The summaries as plain text: %, degrees, millimetres and milliseconds."""
        head = ("object", "n", "found", "2D proj %", "ADD(-S) %", "5cm5° %", "rot °", "trans mm", "median ms", "p95 ms")
        rows = [head, *(_row(s) for s in self.objects.values())]
        if len(self.objects) > 1:
            rows.append(_row(self.mean))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]) for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        lines.append(f"rank correlation of score and 2D projection error: {self.score_correlation:+.2f} (-1 is best)")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump; numbers that are not finite become None."""
        return _finite(
            {
                "settings": self.settings,
                "notes": list(self.notes),
                "objects": {str(k): _summary_json(s) for k, s in self.objects.items()},
                "mean": _summary_json(self.mean),
                "score_rank_correlation": self.score_correlation,
                "instances": [_case_json(c) for c in self.cases],
            }
        )


def evaluate_bop(
    dataset: BopDataset,
    split: str,
    estimators: Mapping[int, Estimator],
    *,
    window: str = "gt",
    displace: float = 0.0,
    seed: int = 0,
    frames: Collection[int] | None = None,
    min_visibility: float = 0.1,
    all_instances: bool = False,
    keep_rejected: bool = False,
    show_progress: bool = False,
) -> Evaluation:
    """Estimate and score the poses of the objects that `estimators` (by object id) know.

    window: "gt" for the projected centre of the object's box, or a file of 2D detections (`read_windows`). displace:
    pixels, see `displaced`. The rest as in `select_instances` and `predict`. Raises InputError for a dataset, split,
    object or file that is missing or broken.
    """
    instances, notes = select_instances(
        dataset, split, estimators, frames=frames, min_visibility=min_visibility, all_instances=all_instances
    )
    windows = true_windows(dataset, instances) if window == "gt" else match_windows(instances, read_windows(window))
    if displace:
        windows = displaced(instances, windows, displace, seed)
    predictions = predict(instances, estimators, windows, keep_rejected=keep_rejected, show_progress=show_progress)
    settings = {
        "root": str(dataset.root),
        "split": split,
        "window": window,
        "displace_px": displace,
        "seed": seed,
        "min_visibility": None if all_instances else min_visibility,
        "all_instances": all_instances,
        "keep_rejected": keep_rejected,
    }
    return score(dataset, instances, predictions, settings, notes)


def evaluate_results(
    dataset: BopDataset,
    split: str,
    results: Sequence[Result],
    object_ids: Iterable[int] | None = None,
    *,
    frames: Collection[int] | None = None,
    min_visibility: float = 0.1,
    all_instances: bool = False,
) -> Evaluation:
    """Score a result file (data.bop.read_results); its time is per image. Otherwise as `evaluate_bop`."""
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


# --- which instances -------------------------------------------------------------------------------------------------


def select_instances(
    dataset: BopDataset,
    split: str,
    object_ids: Iterable[int] | None = None,
    *,
    frames: Collection[int] | None = None,
    min_visibility: float = 0.1,
    all_instances: bool = False,
) -> tuple[list[Instance], tuple[str, ...]]:
    """The instances to score, and notes for the reader.

    With a targets file (test_targets_bop19.json): its targets, in the images that are there. Without one, or if none of
    its images is there: the instances that are at least `min_visibility` visible (where the dataset tells). With
    `all_instances`: all of them. frames: image ids, those alone. Raises InputError if none is left.
    """
    instances = dataset.instances(split)
    expect(bool(instances), f"split {split!r} of {dataset.root}", "annotated instances", "none")
    notes: tuple[str, ...] = ()
    if not all_instances:
        targets = dataset.targets()
        chosen = [i for i in instances if targets is not None and key(i) in targets]
        if not chosen:
            if targets is not None:
                what = f"all instances at least {100 * min_visibility:g} % visible count"
                notes = (f"no target of the dataset's targets file is in split {split!r}: {what}",)
            chosen = [i for i in instances if not i.visible_fraction < min_visibility]
        instances = chosen
    if object_ids is not None:
        wanted = set(object_ids)
        for object_id in wanted:
            dataset.model(object_id)
        instances = [i for i in instances if i.object_id in wanted]
    if frames is not None:
        instances = [i for i in instances if i.im_id in frames]
    expect(bool(instances), "the choice of split, objects and frames", "at least one instance", "none")
    return instances, notes


def key(x: Instance | Result) -> Key:
    return x.scene_id, x.im_id, x.object_id


# --- where to look ---------------------------------------------------------------------------------------------------


def true_windows(dataset: BopDataset, instances: Sequence[Instance]) -> list[Window | None]:
    """Each instance's window around the projection of the centre of its 3D bounding box ("ground truth 2D object
    center", Table 1 of the paper); None if that centre is behind the camera."""
    windows: list[Window | None] = []
    for i in instances:
        model = dataset.model(i.object_id)
        center = apply(i.T_camera_object, (model.minimum + model.maximum)[None] / 2)  # (1, 3)
        windows.append(Window(*map(float, i.camera.pixels(center)[0])) if center[0, 2] > 0 else None)
    return windows


def displaced(instances: Sequence[Instance], windows: Sequence[Window | None], radius: float, seed: int) -> list[Window | None]:
    """Each window moved by a vector drawn uniformly from the disc of `radius` pixels. The draw depends on the seed and
    the instance alone, not on what else is evaluated."""
    expect(radius >= 0 and seed >= 0, "displacement", "a radius and a seed that are not negative", (radius, seed))
    seen: dict[Key, int] = defaultdict(int)
    result: list[Window | None] = []
    for i, window in zip(instances, windows, strict=True):
        rng = np.random.default_rng([seed, *key(i), seen[key(i)]])
        seen[key(i)] += 1
        r, angle = radius * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        result.append(window and Window(float(window.u + r * np.cos(angle)), float(window.v + r * np.sin(angle))))
    return result


def read_windows(path: str | Path) -> dict[Key, list[tuple[float, Window]]]:
    """2D detections as (score, window around the box's centre) per scene, image and object, best first.

    A .json file in BOP's format (a list of {scene_id, image_id, category_id, score, bbox: [x, y, width, height]}), or a
    .csv file with the columns scene_id, im_id, obj_id, u, v and optionally score. Raises InputError.
    """
    path = Path(path)
    expect(path.is_file(), "window", '"gt" or a .json or .csv file of 2D detections', repr(str(path)))
    found: dict[Key, list[tuple[float, Window]]] = defaultdict(list)
    try:
        if path.suffix == ".json":
            for d in json.loads(path.read_text()):
                x, y, width, height = map(float, d["bbox"])
                window = Window(x + (width - 1) / 2, y + (height - 1) / 2)
                found[int(d["scene_id"]), int(d["image_id"]), int(d["category_id"])].append((float(d.get("score", 1)), window))
        else:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    window = Window(float(row["u"]), float(row["v"]))
                    found[int(row["scene_id"]), int(row["im_id"]), int(row["obj_id"])].append((float(row.get("score") or 1), window))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected 2D detections, got {type(error).__name__} {error}") from None
    return {k: sorted(v, key=lambda x: -x[0]) for k, v in found.items()}


def match_windows(instances: Sequence[Instance], detections: Mapping[Key, Sequence[tuple[float, Window]]]) -> list[Window | None]:
    """The best detections for the instances, in order of score; None for an instance that has none left."""
    left = {k: list(v) for k, v in detections.items()}
    return [left[key(i)].pop(0)[1] if left.get(key(i)) else None for i in instances]


# --- predict ---------------------------------------------------------------------------------------------------------


def predict(
    instances: Sequence[Instance],
    estimators: Mapping[int, Estimator],
    windows: Sequence[Window | None],
    *,
    keep_rejected: bool = False,
    show_progress: bool = False,
) -> list[Prediction]:
    """One prediction for each instance that has a window; each image is read once.

    With `keep_rejected`, poses that the estimator's gate refused count as accepted (a refused solution without any
    pose stays refused). The results' time is that of all estimates in their image, as BOP wants it.
    """
    images: dict[Path, list[int]] = defaultdict(list)
    for index, instance in enumerate(instances):
        images[instance.image_path].append(index)
    predictions: list[Prediction] = []
    warm: set[int] = set()
    for path, indices in progress.over(images.items(), len(images), "evaluate", "image", show_progress):
        image = read_image(path)
        made = []
        for index in indices:
            instance, window = instances[index], windows[index]
            if window is None:
                continue
            estimator = estimators[instance.object_id]
            if instance.object_id not in warm:  # the first call sets the engine up; it is not timed
                warm.add(instance.object_id)
                estimator.estimate(image, instance.camera, window)
            start = time.perf_counter()
            pose = estimator.estimate(image, instance.camera, window)
            made.append((instance, pose, time.perf_counter() - start))
        total = sum(seconds for _, _, seconds in made)
        for instance, pose, seconds in made:
            accepted = pose.accepted or (keep_rejected and bool(np.isfinite(pose.reprojection_error)))
            predictions.append(Prediction(Result(*key(instance), pose.score, pose.T_camera_object, total), seconds, accepted, pose.reason))
    return predictions


# --- score -----------------------------------------------------------------------------------------------------------


def score(
    dataset: BopDataset,
    instances: Sequence[Instance],
    predictions: Sequence[Prediction],
    settings: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Evaluation:
    """Judge each instance. Of the predictions for the same object in the same image, the best by score count, as many as
    there are instances; each goes to the instance that it fits best and that has none yet."""
    truths: dict[Key, list[int]] = defaultdict(list)
    for index, instance in enumerate(instances):
        truths[key(instance)].append(index)
    answers: dict[Key, list[Prediction]] = defaultdict(list)
    for p in predictions:
        answers[key(p.result)].append(p)

    cases = [Case(i, None, None) for i in instances]
    for k, indices in truths.items():
        model = dataset.model(k[2])
        vertices = model_vertices(model)
        for p in sorted(answers[k], key=lambda p: (not p.accepted, -p.result.score))[: len(indices)]:
            T = p.result.T_camera_object
            candidates = []
            for index in indices:
                truth = instances[index]
                errors = pose_errors(T, truth.T_camera_object, vertices, model.diameter, truth.camera, model.symmetries)
                candidates.append((errors.projection_2d, errors.add, index, errors))
            *_, index, errors = min(candidates, key=lambda c: c[:3])
            cases[index] = Case(instances[index], p, errors)
            indices.remove(index)

    groups: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.instance.object_id].append(case)
    objects = {k: _summarise(f"{k} {dataset.model(k).name}", groups[k]) for k in sorted(groups)}
    rows = list(objects.values())
    columns = ("projection", "add", "cm_deg", "rotation", "translation", "latency", "latency_p95")
    means = {name: _mean([getattr(s, name) for s in rows]) for name in columns}
    mean = Summary("mean", sum(s.count for s in rows), sum(s.answered for s in rows), **means)
    return Evaluation(tuple(cases), objects, mean, settings or {}, notes)


def model_vertices(model: ObjectModel) -> Array:
    """(N, 3) vertices in metres, of models_eval/ where that exists (what the BOP challenge scores with)."""
    root, name = model.mesh_path.parents[1], model.mesh_path.name
    path = next((p for p in (root / "models_eval" / name, model.mesh_path) if p.is_file()), None)
    expect(path is not None, str(root), f"{name} in models_eval/ or models/", "none")
    return _cached_vertices(path, path.stat().st_mtime_ns) * MM  # type: ignore[union-attr]


@cache
def _cached_vertices(path: Path, changed: int) -> Array:
    return read_ply_vertices(path)


def read_ply_vertices(path: str | Path) -> Array:
    """(N, 3) vertices of an ASCII or binary PLY file, in the file's unit. Raises InputError for anything else."""
    types = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"}
    types |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"}
    content = Path(path).read_bytes()
    header, end, body = content.partition(b"end_header")
    body = body[body.find(b"\n") + 1 :]
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines()]
    elements = [n for n, line in enumerate(lines) if line[:1] == ["element"]]
    try:
        expect(bool(end) and lines[0] == ["ply"], str(path), "a PLY file", "another header")
        encoding = next(line[1] for line in lines if line[:1] == ["format"])
        expect(lines[elements[0]][1] == "vertex", str(path), "the vertices first", lines[elements[0]][1])
        count = int(lines[elements[0]][2])
        stop = elements[1] if len(elements) > 1 else len(lines)
        properties = [(line[2], types[line[1]]) for line in lines[elements[0] : stop] if line[:1] == ["property"]]
        if encoding == "ascii":
            names = [name for name, _ in properties]
            table = np.array([line.split()[: len(names)] for line in body.decode("ascii").splitlines()[:count]], dtype=np.float64)
            vertices = table[:, [names.index(axis) for axis in "xyz"]]
        else:
            order = {"binary_little_endian": "<", "binary_big_endian": ">"}[encoding]
            records = np.frombuffer(body, dtype=[(name, order + kind) for name, kind in properties], count=count)
            vertices = np.stack([records[axis] for axis in "xyz"], axis=1).astype(np.float64)
        expect(vertices.shape == (count, 3) and bool(np.isfinite(vertices).all()), str(path), f"{count} finite vertices", "something else")
    except (IndexError, KeyError, StopIteration, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a PLY file with x, y, z per vertex, got a header that does not say so ({error!r})") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: expected a whole PLY file, got {error}") from None
    return vertices


def _summarise(name: str, cases: Sequence[Case]) -> Summary:
    errors = [c.counted for c in cases if c.counted]
    seconds = [c.prediction.seconds for c in cases if c.prediction and np.isfinite(c.prediction.seconds)]
    return Summary(
        name=name,
        count=len(cases),
        answered=len(errors),
        projection=sum(e.projection_correct for e in errors) / len(cases),
        add=sum(e.add_correct for e in errors) / len(cases),
        cm_deg=sum(e.within_5cm_5deg for e in errors) / len(cases),
        rotation=float(np.median([e.rotation for e in errors])) if errors else float("nan"),
        translation=float(np.median([e.translation for e in errors])) if errors else float("nan"),
        latency=float(np.median(seconds)) if seconds else float("nan"),
        latency_p95=float(np.percentile(seconds, 95)) if seconds else float("nan"),
    )


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _row(s: Summary) -> tuple[str, ...]:
    numbers = [(100 * s.projection, 1), (100 * s.add, 1), (100 * s.cm_deg, 1), (np.rad2deg(s.rotation), 2), (1e3 * s.translation, 1)]
    numbers += [(1e3 * s.latency, 1), (1e3 * s.latency_p95, 1)]
    return s.name, str(s.count), str(s.answered), *(f"{value:.{digits}f}" if np.isfinite(value) else "-" for value, digits in numbers)


def _summary_json(s: Summary) -> dict[str, Any]:
    return {
        "name": s.name,
        "count": s.count,
        "answered": s.answered,
        "projection_2d_5px": s.projection,
        "add_10_percent": s.add,
        "5cm_5deg": s.cm_deg,
        "median_rotation_deg": float(np.rad2deg(s.rotation)),
        "median_translation_mm": 1e3 * s.translation,
        "latency_median_ms": 1e3 * s.latency,
        "latency_p95_ms": 1e3 * s.latency_p95,
    }


def _case_json(c: Case) -> dict[str, Any]:
    values: dict[str, Any] = {
        "scene_id": c.instance.scene_id,
        "im_id": c.instance.im_id,
        "obj_id": c.instance.object_id,
        "visible_fraction": c.instance.visible_fraction,
        "status": c.status,
    }
    if c.prediction is not None and c.errors is not None:
        values |= {
            "reason": c.prediction.reason,
            "score": c.prediction.result.score,
            "latency_ms": 1e3 * c.prediction.seconds,
            "projection_2d_px": c.errors.projection_2d,
            "add_mm": 1e3 * c.errors.add,
            "rotation_deg": float(np.rad2deg(c.errors.rotation)),
            "translation_mm": 1e3 * c.errors.translation,
            "within_5cm_5deg": c.errors.within_5cm_5deg,
        }
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
