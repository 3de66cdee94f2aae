"""What a relabelling did, with pictures before and after: one HTML file and the same numbers as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm_pose_core.files import read_image, write_atomically
from fm_pose_core.geometry import apply, box_corners
from fm_pose_core.objects.bop import MM, BopDataset, Instance
from fm_pose_core.objects.overlay import BLUE, GREEN, closeup, draw_contour
from fm_pose_core.objects.page import figure, table, write_page
from fm_pose_core.objects.relabel import Correction
from fm_pose_core.rendering.mesh import read_triangles, read_vertices

PICTURES = 3  # of each correction
SIZE = 300  # pixels

HEAD = ("object", "arrangement", "images", "corrected", "rotation, °", "translation, mm", "agreement", "")

EXPLANATION = """<p>The outline of the model: left at the <span class="green">given label, green</span>, right at the
<span class="blue">corrected one, blue</span>. Agreement: of the model's edges with those of the images, before → after;
1 where all have the same direction.</p>"""


def summary(dataset: BopDataset, corrections: Sequence[Correction]) -> str:
    """A line for each object: how many of its arrangements were corrected, and by how much (median)."""
    lines = [f"{'object':16}{'corrected':>12}{'images':>16}{'rotation, °':>18}{'translation, mm':>20}"]
    for object_id in sorted({c.arrangement.object_id for c in corrections}):
        own = [c for c in corrections if c.arrangement.object_id == object_id]
        done = [c for c in own if c.accepted]
        images = f"{_images(done)} of {_images(own)}"
        line = f"{dataset.model(object_id).name:16}{f'{len(done)} of {len(own)}':>12}{images:>16}"
        if done:
            angles = _with_sigma(np.degrees([(c.angle, c.sigma_angle) for c in done]))
            line += f"{angles:>18}{_with_sigma(np.array([(c.distance, c.sigma_distance) for c in done]) / MM):>20}"
        lines.append(line)
    return "\n".join(lines)


def write_report(
    dataset: BopDataset, instances: Sequence[Instance], corrections: Sequence[Correction], folder: str | Path
) -> Path:
    """Write `folder`/corrections.json and `folder`/index.html; the HTML's path is returned.

    instances: as they were labelled. Raises InputError if an image or a mesh of the dataset can't be read."""
    folder = Path(folder)
    text = json.dumps([c.to_json() for c in corrections], indent=1)
    write_atomically(folder / "corrections.json", (text + "\n").encode())
    rows = [_row(dataset, c) for c in corrections]
    parts = [table(HEAD, rows), "<h2>Pictures</h2>", EXPLANATION]
    by_key = {(x.scene_id, x.im_id, x.object_id): x for x in instances}
    for c in corrections:
        if c.accepted:
            parts += _pictures(dataset, by_key, c)
    return write_page(folder / "index.html", "Corrected labels", parts)


def _images(corrections: Sequence[Correction]) -> int:
    return sum(len(c.arrangement.images) for c in corrections)


def _with_sigma(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> str:
    value, sigma = np.median(values, 0)
    return f"{value:.1f} ± {sigma:.1f}"


def _name(c: Correction) -> str:
    return f"scene {c.arrangement.scene_id}, images {c.arrangement.images[0]}–{c.arrangement.images[-1]}"


def _row(dataset: BopDataset, c: Correction) -> list[str]:
    a = c.arrangement
    start = [dataset.model(a.object_id).name, _name(c), str(len(a.images)), "yes" if c.accepted else "no"]
    if not np.isfinite(c.angle):
        return [*start, "", "", "", c.reason]
    rotation = f"{np.degrees(c.angle):.1f} ± {np.degrees(c.sigma_angle):.1f}"
    translation = f"{c.distance / MM:.1f} ± {c.sigma_distance / MM:.1f}"
    return [*start, rotation, translation, f"{c.before:.2f} → {c.after:.2f}", c.reason]


def _pictures(dataset: BopDataset, labelled: dict[tuple[int, int, int], Instance], c: Correction) -> list[str]:
    a = c.arrangement
    model = dataset.model(a.object_id)
    vertices, triangles = MM * read_vertices(model.mesh_path), read_triangles(model.mesh_path)
    box = box_corners(model.minimum, model.maximum)
    parts = [f"<h3>{model.name}, {_name(c)}</h3>"]
    for k in np.unique(np.linspace(0, len(a.images) - 1, PICTURES).round().astype(int)):
        x = labelled[a.scene_id, a.images[k], a.object_id]
        after = a.T_camera_world[k] @ c.T_world_object
        around = np.vstack([x.camera.pixels(apply(T, box)) for T in (x.T_camera_object, after)])
        view, camera = closeup(read_image(x.image_path), x.camera, around, SIZE)
        poses = ((x.T_camera_object, GREEN), (after, BLUE))
        tiles = [draw_contour(view, camera, T, vertices, triangles, colour) for T, colour in poses]
        parts.append(figure(np.hstack(tiles), f"image {x.im_id}"))
    return parts
