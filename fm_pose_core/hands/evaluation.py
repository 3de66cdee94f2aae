"""Evaluation of 3D hand joints (section 4.2): mean error, per joint, and the fraction of frames with all joints within
a distance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.labels import MM, THRESHOLDS
from fm_pose_core.hands.locate import Near


@dataclass(frozen=True)
class HandScore:
    """name of the predictions; errors (N, J): distances in metres, infinite where the prediction of a known joint is
    missing, NaN where the truth is not known, which counts in nothing."""

    name: str
    errors: Array
    joints: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Mean over frames and joints, metres ("average 3D error", Table 3)."""
        return float(np.nanmean(self.errors))

    @property
    def largest(self) -> Array:
        """Largest error of each frame with known joints, metres."""
        known = ~np.isnan(self.errors).all(1)
        return np.nanmax(self.errors[known], axis=1)

    @property
    def of_joints(self) -> Array:
        """Mean error of each joint (J,), metres; NaN for one that is never known."""
        count = (~np.isnan(self.errors)).sum(0)
        return np.where(count > 0, np.nansum(self.errors, axis=0) / np.maximum(count, 1), np.nan)

    def within(self, distance: float) -> float:
        """Fraction of frames with all joints within `distance` metres (Figure 7)."""
        return float((self.largest < distance).mean())

    def to_json(self) -> dict[str, Any]:
        of_joints = [None if np.isnan(e) else float(e) / MM for e in self.of_joints]
        return {
            "name": self.name,
            "frames": len(self.largest),
            "mean_error_mm": self.mean / MM,
            "per_joint_mm": dict(zip(self.joints, of_joints, strict=True)),
            "frames_within": {f"{t / MM:.0f}mm": self.within(t) for t in THRESHOLDS},
        }


def score_joints(name: str, truth: Array, predictions: Array, joints: tuple[str, ...]) -> HandScore:
    """truth, predictions: (N, J, 3) metres, NaN where not known or missing. Raises InputError if they do not match, or
    if no joint is known."""
    expect(
        predictions.shape == truth.shape,
        name,
        f"{len(truth)} frames of {truth.shape[1]} joints, as the ground truth",
        predictions.shape[:2],
    )
    known = np.isfinite(truth).all(-1)
    expect(bool(known.any()), "ground truth", "at least one known joint", "none")
    errors = np.linalg.norm(predictions - truth, axis=-1)
    return HandScore(name, np.where(known, np.where(np.isnan(errors), np.inf, errors), np.nan), joints)


def predict_joints(
    estimator: HandEstimator, frames: HandFrames, near_truth: bool, show_progress: bool = False
) -> Array:
    """(N, J, 3) metres, NaN where no hand was found: an estimator on all frames. near_truth: the cube is cut around the
    centre of mass near the true joints, as DeepPrior's evaluation does; else where the estimator finds the hand."""
    result = np.full(frames.joints.shape, np.nan)
    for i in tqdm(range(len(frames)), "evaluate", unit="frame", disable=not show_progress):
        locator = Near(frames.joints[i], estimator.bundle.hand.cube) if near_truth else None
        pose = estimator.estimate(frames.depth(i), frames.camera, locator)
        if pose is not None:
            expect(
                pose.joints.shape == result[i].shape,
                "the bundle",
                f"{result.shape[1]} joints of {frames.dataset.name}",
                len(pose.joints),
            )
            result[i] = pose.joints
    return result


def table(scores: Sequence[HandScore]) -> str:
    """Mean errors and frames within the thresholds, the best first; then the errors of each joint."""
    scores = sorted(scores, key=lambda s: s.mean)
    width = max(12, *(len(s.name) for s in scores))
    head = f"{'predictions':{width}}  frames  mean mm" + "".join(f"  all < {t / MM:.0f} mm" for t in THRESHOLDS)
    lines = [head, "-" * len(head)]
    for s in scores:
        lines.append(
            f"{s.name:{width}}  {len(s.largest):6d}  {s.mean / MM:7.2f}"
            + "".join(f"  {100 * s.within(t):9.1f} %" for t in THRESHOLDS)
        )
    lines += ["", "mean error of each joint, mm"]
    for j, joint in enumerate(scores[0].joints):
        lines.append(f"  {joint:{width}}" + "".join(f"{s.of_joints[j] / MM:9.2f}" for s in scores))
    if len(scores) > 1:
        lines.append(
            f"  {'':{width}}" + "".join(f"{f'({k + 1})':>9}" for k in range(len(scores))) + "   in the order above"
        )
    return "\n".join(lines)


def draw_figure_7(scores: Sequence[HandScore], path: str | Path, farthest: float = 0.08) -> None:
    """The paper's Figure 7: fraction of frames with all joints within a distance, for each of `scores`. path: .png,
    .svg or .pdf."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("the figure: expected matplotlib (pip install matplotlib), got none") from None
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    x = np.linspace(0, farthest, 321)
    for s in sorted(scores, key=lambda s: s.mean):
        largest = np.sort(s.largest)
        axis.plot(x / MM, 100 * np.searchsorted(largest, x) / len(largest), label=f"{s.name} ({s.mean / MM:.1f} mm)")
    axis.set(
        xlabel="distance, mm", ylabel="frames with all joints within it, %", xlim=(0, farthest / MM), ylim=(0, 100)
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
