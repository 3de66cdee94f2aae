"""The report of an evaluation: one HTML file with pictures inside, and the same numbers as JSON."""

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fm_pose_core.files import read_image, write_atomically
from fm_pose_core.geometry import apply, box_corners
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.cases import Case, Evaluation, summary_rows
from fm_pose_core.objects.metrics import PROJECTION_THRESHOLD, PoseErrors
from fm_pose_core.objects.overlay import BLUE, GREEN, closeup, draw_pose
from fm_pose_core.objects.page import figure, table, write_page

PICTURES = 4  # per object and kind (best, median, worst)
SCORE_BINS = 10

METRICS = """<p>2D proj: mean vertex projection error below 5 px. ADD(-S): mean vertex distance below 10 % of the
diameter, to the nearest vertex for symmetric objects. 5cm5°: both below. An absent or rejected prediction is a failure;
medians are over those found.</p>"""


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """All numbers, also those of each instance, atomically."""
    write_atomically(path, (json.dumps(evaluation.to_json(), indent=1) + "\n").encode())


def write_report(
    evaluation: Evaluation, dataset: BopDataset, folder: str | Path, title: str = "Pose evaluation"
) -> Path:
    """Write `folder`/evaluation.json and `folder`/index.html, which needs no other file; the HTML's path is returned.

    Without matplotlib (extra `train`) the report says so in place of its plots. Raises InputError if an image of the
    dataset can't be read.
    """
    folder = Path(folder)
    write_json(evaluation, folder / "evaluation.json")
    head, *rows = evaluation.rows("–")
    parts = [
        table(head, rows, evaluation.mean.name),
        *(f'<p class="note">{html.escape(note)}</p>' for note in evaluation.notes),
        METRICS,
        *_visibility(evaluation),
        *_plots(evaluation),
        *_pictures(evaluation, dataset),
        f"<h2>Settings</h2><pre>{html.escape(json.dumps(evaluation.settings, indent=1, default=str))}</pre>",
    ]
    return write_page(folder / "index.html", title, parts)


def score_bins(evaluation: Evaluation, bins: int = SCORE_BINS) -> list[dict[str, float]]:
    """Calibration of the score: for each bin of equally many answered instances, lowest scores first: count, mean
    score, mean and median 2D projection error in pixels, and the share below 5 px."""
    pairs = evaluation.scores_and_errors()
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return [
        {
            "count": len(p),
            "score": float(p[:, 0].mean()),
            "mean_error": float(p[:, 1].mean()),
            "median_error": float(np.median(p[:, 1])),
            "correct": float((p[:, 1] < PROJECTION_THRESHOLD).mean()),
        }
        for p in np.array_split(pairs, min(bins, max(1, len(pairs))))
        if len(p)
    ]


def _visibility(evaluation: Evaluation) -> list[str]:
    groups = evaluation.by_visibility()
    if not groups:
        return []
    head, *rows = summary_rows(groups, "–")
    return ["<h2>Accuracy against visible fraction</h2>", table(head, rows, "")]


# --- plots -----------------------------------------------------------------------------------------------------------


def _plots(evaluation: Evaluation) -> list[str]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ['<p class="note">Plots need matplotlib: pip install matplotlib</p>']
    curves = Figure(figsize=(10, 3.3), layout="constrained")
    _draw_curves(curves, evaluation)
    parts = ["<h2>Accuracy against threshold</h2>", _png(curves)]
    bins = score_bins(evaluation)
    if not bins:
        return parts
    calibration = Figure(figsize=(10, 3.3), layout="constrained")
    _draw_calibration(calibration, bins)
    correlation = f"rank correlation of score and error: {evaluation.score_correlation:+.2f} (-1 is best)"
    text = f"{len(bins)} bins of equally many instances; {correlation}."
    return [*parts, "<h2>Calibration of the score</h2>", f"<p>{text}</p>", _png(calibration)]


# Errors of an answer in the unit of the label, the threshold below which it is correct, and the plot's limit.
CURVES: tuple[tuple[str, Callable[[PoseErrors], float], float, float], ...] = (
    ("2D projection error, px", lambda e: e.projection_2d, 5.0, 20.0),
    ("ADD(-S), % of the diameter", lambda e: 100 * e.add / e.diameter, 10.0, 40.0),
    ("rotation error, °", lambda e: float(np.rad2deg(e.rotation)), 5.0, 20.0),
)


def _draw_curves(figure: Any, evaluation: Evaluation) -> None:
    """The share of instances with an error below x, over x."""
    for axis, (label, value, threshold, limit) in zip(figure.subplots(1, 3), CURVES, strict=True):
        for object_id, summary in evaluation.objects.items():
            cases = [c for c in evaluation.cases if c.instance.object_id == object_id]
            errors = np.array([value(c.counted) if c.counted else np.inf for c in cases])
            x = np.linspace(0, limit, 201)
            axis.plot(x, [100 * (errors < t).mean() for t in x], label=summary.name)
        axis.axvline(threshold, color="0.6", linestyle=":")
        axis.set(xlabel=label, ylim=(0, 101), xlim=(0, limit))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("instances below, %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)


def _draw_calibration(figure: Any, bins: Sequence[dict[str, float]]) -> None:
    """Error, and share of correct answers, over the score."""
    left, right = figure.subplots(1, 2)
    finite = [b for b in bins if np.isfinite(b["mean_error"]) and b["mean_error"] > 0]
    left.plot([b["score"] for b in finite], [b["mean_error"] for b in finite], "o-", label="mean")
    left.plot([b["score"] for b in finite], [b["median_error"] for b in finite], "s--", label="median")
    left.set(xlabel="score (mean of the bin)", ylabel="2D projection error, px", yscale="log")
    right.plot([b["score"] for b in bins], [100 * b["correct"] for b in bins], "o-")
    right.set(xlabel="score (mean of the bin)", ylabel="instances below 5 px, %", ylim=(-2, 102))
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


# --- pictures --------------------------------------------------------------------------------------------------------


def _pictures(evaluation: Evaluation, dataset: BopDataset) -> list[str]:
    colours = '<span class="green">true pose green</span>, of the <span class="blue">estimate blue</span>'
    parts = [f"<h2>Pictures</h2><p>Box of the {colours}.</p>"]
    for object_id, summary in evaluation.objects.items():
        cases = [c for c in evaluation.cases if c.instance.object_id == object_id]
        parts.append(f"<h3>{html.escape(summary.name)}</h3>")
        for kind, chosen in choose_cases(cases).items():
            if chosen:
                parts.append(f"<h4>{kind}</h4>{''.join(_picture(c, dataset) for c in chosen)}")
    return parts


def choose_cases(cases: Sequence[Case]) -> dict[str, Sequence[Case]]:
    """The best, median and worst answers by 2D projection error, and instances without one; none is shown twice."""
    answered = sorted((c for c in cases if c.counted), key=lambda c: c.counted.projection_2d if c.counted else 0.0)
    refused = [c for c in cases if not c.counted]
    n = min(PICTURES, (len(answered) + 2) // 3)
    middle = max(n, (len(answered) - n) // 2)
    return {
        "Best": answered[:n],
        "Median": answered[middle : middle + n],
        "Worst": answered[max(middle + n, len(answered) - n) :],
        "Without an answer": [
            refused[k] for k in np.linspace(0, len(refused) - 1, min(PICTURES, len(refused))).astype(int)
        ],
    }


def _picture(case: Case, dataset: BopDataset) -> str:
    i, model = case.instance, dataset.model(case.instance.object_id)
    box = box_corners(model.minimum, model.maximum)
    view, camera = closeup(read_image(i.image_path), i.camera, i.camera.pixels(apply(i.T_camera_object, box)))
    view = draw_pose(view, camera, i.T_camera_object, box, GREEN, axes=False)
    if case.prediction is not None:
        view = draw_pose(view, camera, case.prediction.result.T_camera_object, box, BLUE, axes=False)
    return figure(view, _caption(case))


def _caption(case: Case) -> str:
    i, error = case.instance, case.errors
    if error is None or case.prediction is None:
        return f"scene {i.scene_id}, image {i.im_id}: {case.status}"
    numbers = f"{error.projection_2d:.1f} px, {np.rad2deg(error.rotation):.1f}°, {1e3 * error.translation:.0f} mm"
    caption = f"{i.scene_id}/{i.im_id}: {numbers}, score {case.prediction.result.score:.2f}"
    return caption + ("" if case.status == "scored" else f" ({case.status}: {case.prediction.reason})")
