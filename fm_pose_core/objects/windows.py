"""Where to look: the windows of an evaluation, true, displaced or detected."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fm_pose_core.document import read_document
from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import apply
from fm_pose_core.objects.bop import BopDataset, Instance, Key, key
from fm_pose_core.types import Window


def true_windows(dataset: BopDataset, instances: Sequence[Instance]) -> list[Window | None]:
    """Each instance's window around the projection of the centre of its 3D bounding box ("ground truth 2D object
    center", Table 1 of the paper); None if that centre is behind the camera."""
    windows: list[Window | None] = []
    for i in instances:
        model = dataset.model(i.object_id)
        center = apply(i.T_camera_object, (model.minimum + model.maximum)[None] / 2)  # (1, 3)
        u, v = i.camera.pixels(center)[0]
        windows.append(Window(float(u), float(v)) if center[0, 2] > 0 else None)
    return windows


def displaced(
    instances: Sequence[Instance], windows: Sequence[Window | None], radius: float, seed: int
) -> list[Window | None]:
    """Each window moved by a vector drawn uniformly from the disc of `radius` pixels. The draw depends on the seed and
    the instance alone, not on what else is evaluated."""
    expect(radius >= 0 and seed >= 0, "displacement", "a radius and a seed that are not negative", (radius, seed))
    seen: dict[Key, int] = defaultdict(int)
    result: list[Window | None] = []
    for i, window in zip(instances, windows, strict=True):
        rng = np.random.default_rng([seed, *key(i), seen[key(i)]])
        seen[key(i)] += 1
        r, angle = radius * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        moved = window and replace(window, u=float(window.u + r * np.cos(angle)), v=float(window.v + r * np.sin(angle)))
        result.append(moved)
    return result


def read_windows(path: str | Path) -> dict[Key, list[tuple[float, Window]]]:
    """2D detections as (score, window around the box's centre) per scene, image and object, best first.

    A .json file in BOP's format (a list of {scene_id, image_id, category_id, score, bbox: [x, y, width, height]}), or a
    .csv file with the columns scene_id, im_id, obj_id, u, v and optionally score. Raises InputError.
    """
    path = Path(path)
    expect(path.is_file(), "window", '"gt" or a .json or .csv file of 2D detections', repr(str(path)))
    rows = _from_json(path) if path.suffix == ".json" else _from_csv(path)
    found: dict[Key, list[tuple[float, Window]]] = defaultdict(list)
    for place, score, window in rows:
        found[place].append((score, window))
    return {k: sorted(v, key=lambda x: -x[0]) for k, v in found.items()}


Row = tuple[Key, float, Window]


def _from_json(path: Path) -> list[Row]:
    rows = []
    for x in read_document(path).elements():
        u, v, width, height = x["bbox"].numbers(4)
        window = Window(u + (width - 1) / 2, v + (height - 1) / 2)
        place = (x["scene_id"].whole(), x["image_id"].whole(), x["category_id"].whole())
        rows.append((place, x.get("score", 1).number(), window))
    return rows


def _from_csv(path: Path) -> list[Row]:
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                window = Window(float(row["u"]), float(row["v"]))
                place = (int(row["scene_id"]), int(row["im_id"]), int(row["obj_id"]))
                rows.append((place, float(row.get("score") or 1), window))
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: expected 2D detections, got {type(error).__name__} {error}") from None
    return rows


def match_windows(
    instances: Sequence[Instance], detections: Mapping[Key, Sequence[tuple[float, Window]]]
) -> list[Window | None]:
    """The best detections for the instances, in order of score; None for an instance that has none left."""
    left = {k: list(v) for k, v in detections.items()}
    return [left[key(i)].pop(0)[1] if left.get(key(i)) else None for i in instances]
