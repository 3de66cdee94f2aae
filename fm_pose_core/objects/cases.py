"""What an evaluation consists of: cases (an instance and what was predicted for it), their summary, and the whole as
table and JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from fm_pose_core.geometry import Array
from fm_pose_core.objects.bop import Instance, Result
from fm_pose_core.objects.metrics import PoseErrors, rank_correlation

VISIBILITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # fractions at which the groups of `by_visibility` end


@dataclass(frozen=True)
class Prediction:
    """An estimate in the terms of a result file. seconds: what it took, NaN if unknown; of several that were made
    together, its share. A prediction that is not accepted is no answer: it is reported with its `reason`, but counts as
    absent."""

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
    """One row of the table. count: instances; answered: those with an accepted prediction. projection, add, cm_deg:
    share of correct poses in [0, 1] among all instances (2D projection below 5 px, ADD(-S) below 10 % of the diameter,
    5 cm 5°). rotation (radians) and translation (metres): medians over the answered. latency, latency_p95: seconds."""

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
class Column:
    """A figure of a Summary: its field, its name and unit in JSON (`key`) and in tables (`head`), what turns the field
    into that unit, and the digits behind the point in a table. share: a table shows it in percent."""

    field: str
    key: str
    head: str
    convert: Callable[[float], float]
    digits: int = 1
    share: bool = False

    def value(self, summary: "Summary") -> float:
        """In the unit of `key`."""
        return float(self.convert(getattr(summary, self.field)))

    def cell(self, summary: "Summary", missing: str) -> str:
        """In the unit of `head`, as text."""
        value = self.value(summary) * (100 if self.share else 1)
        return f"{value:.{self.digits}f}" if np.isfinite(value) else missing


def _thousand(x: float) -> float:
    return 1e3 * x


COLUMNS = (
    Column("projection", "projection_2d_5px", "2D proj %", float, share=True),
    Column("add", "add_10_percent", "ADD(-S) %", float, share=True),
    Column("cm_deg", "5cm_5deg", "5cm5° %", float, share=True),
    Column("rotation", "median_rotation_deg", "rot °", np.rad2deg, digits=2),
    Column("translation", "median_translation_mm", "trans mm", _thousand),
    Column("latency", "latency_median_ms", "median ms", _thousand),
    Column("latency_p95", "latency_p95_ms", "p95 ms", _thousand),
)


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

    def by_visibility(self) -> list[Summary]:
        """Of the instances by how much of them is visible, where the dataset tells; those hidden most come first. Empty
        groups are left out."""
        groups = []
        for low, high in pairwise(VISIBILITIES):
            above = low if low > 0 else -1.0  # what is hidden altogether is in the first group
            own = [c for c in self.cases if above < c.instance.visible_fraction <= high]
            groups += [summarise(f"{100 * low:.0f}–{100 * high:.0f} % visible", own)] if own else []
        return groups

    def rows(self, missing: str) -> list[tuple[str, ...]]:
        """The table of the summaries: its head, a row per object, and with several objects their mean."""
        return summary_rows([*self.objects.values(), *([self.mean] if len(self.objects) > 1 else [])], missing)

    def table(self) -> str:
        """The summaries as plain text: %, degrees, millimetres and milliseconds."""
        rows = self.rows("-")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        if np.isfinite(self.score_correlation):
            known = f"{self.score_correlation:+.2f} (-1 is best)"
            lines.append(f"rank correlation of score and 2D projection error: {known}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump; numbers that are not finite become None."""
        return _finite(
            {
                "settings": self.settings,
                "notes": list(self.notes),
                "objects": {str(k): _summary_json(s) for k, s in self.objects.items()},
                "mean": _summary_json(self.mean),
                "by_visibility": [_summary_json(s) for s in self.by_visibility()],
                "score_rank_correlation": self.score_correlation,
                "instances": [_case_json(c) for c in self.cases],
            }
        )


def summary_rows(summaries: Sequence[Summary], missing: str) -> list[tuple[str, ...]]:
    """A table: its head, and a row for each. missing: stands for what is not known."""
    head = ("object", "n", "found", *(c.head for c in COLUMNS))
    return [head, *((s.name, str(s.count), str(s.answered), *(c.cell(s, missing) for c in COLUMNS)) for s in summaries)]


def summarise(name: str, cases: Sequence[Case]) -> Summary:
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


def mean_summary(rows: Sequence[Summary]) -> Summary:
    """The mean over objects of what is known."""
    means = {c.field: _mean([getattr(s, c.field) for s in rows]) for c in COLUMNS}
    return Summary("mean", sum(s.count for s in rows), sum(s.answered for s in rows), **means)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _summary_json(s: Summary) -> dict[str, Any]:
    return {"name": s.name, "count": s.count, "answered": s.answered, **{c.key: c.value(s) for c in COLUMNS}}


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
