"""Trains every row of docs/results.md on Occlusion-LINEMOD and prints the table: the paper's method and those that it
is compared with (Table 1), on equal budgets, with labels that `fm-pose relabel` corrected. What has been trained is not
trained again, so it can be interrupted and called again.

The figures are of the frames that report (config/train/lmo.yaml), which nothing was trained on or chosen by; mean
± standard deviation over the training seeds, one view of each window around the true centre. They are given against
three kinds of labels: corrected, published, and the consensus of two published systems. The last column compares a row
with "without g" instance by instance, seed by seed: the ratio of the 2D projection errors against the corrected labels
(geometric mean; one beyond 60 px, or none, counts as 60 px), with its standard error over instances, and its standard
deviation over seeds. A difference is one where it is larger than both.

    FM_POSE_DATA=… python benchmarks/lmo_table.py --runs runs/lmo [--objects duck holepuncher cat] [--rows …]
    [--seeds 0 1 2] [--jobs 2] [--set schedule.images=100000] [--evaluate-only] [--json FILE] [--figure FILE]

The figure is the paper's Figure 4, of the rows that are there: the 2D projection against the number of photographs.
"""

import argparse
import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rows import ROOT, Row, fm_pose, name_of, train

from fm_pose_core.files import Frames
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.tasks import load_experiment

# Photographs as they are: novel views of them are renderings.
NO_RENDERINGS = ["real.novel_views=0.0"]
PUBLISHED = ["data.labels="]
KINDS = ("synthetic", "pairs", "real")  # of samples in a batch; a pair is two images
ROWS = {
    "feature_mapping": Row(),
    "without_mapping": Row(["method=without_mapping"], "feature_mapping"),
    "synthetic_only": Row(["method=synthetic_only"], "feature_mapping"),
    "real_only": Row(["method=real_only", *NO_RENDERINGS]),
    "rozantsev": Row(["method=rozantsev"], "feature_mapping"),
    "gradient_reversal": Row(["method=gradient_reversal"], "feature_mapping"),
    "ddc": Row(["method=ddc"], "feature_mapping"),
    "adda": Row(["method=adda"], "feature_mapping"),
    "global_head": Row(["network.extractor=compact_global", "loss.points=0.0"]),  # L_p needs cells
    "published_feature_mapping": Row(PUBLISHED),
    "published_without_mapping": Row(["method=without_mapping", *PUBLISHED], "published_feature_mapping"),
    "published_real_only": Row(["method=real_only", *NO_RENDERINGS, *PUBLISHED]),
    **{f"batches_of_{4 * n}": Row([f"schedule.batch_{k}={n}" for k in KINDS]) for n in (8, 24)},
    "no_novel_views": Row(NO_RENDERINGS, "feature_mapping"),
    "mapping_alone": Row(["method=mapping_alone"], "feature_mapping"),
    "head_alone": Row(["method=head_alone"], "feature_mapping"),
    "mapping_without_L_g": Row(["loss.gamma=0.0"], "feature_mapping"),
}
FEW = (5, 10, 20, 50)  # photographs, of the paper's Figure 4
MAIN_ROWS = ["feature_mapping", "without_mapping", "synthetic_only", "real_only"]
MEASURES = {"2D proj.": "projection_2d_5px", "ADD": "add_10_percent", "5 cm 5°": "5cm_5deg"}  # ours: evaluation.json's
LARGEST_ERROR = 60.0  # pixels
DATASET = Path(os.path.expandvars("$FM_POSE_DATA")) / "lmo"
CONSENSUS = DATASET / "label_consensus" / "scene_gt.json"
LABELS = ("corrected", "published", *(["consensus"] if CONSENSUS.is_file() else []))  # in no public dataset


def photographs() -> list[int]:
    """The frames that train."""
    data = load_experiment(ROOT / "config/train/lmo_duck.yaml").data  # type: ignore[attr-defined]
    there = {(2, i) for i in BopDataset(DATASET).frames("test", 2)}
    return sorted(i for _, i in Frames.parse(data.training_frames).of(there))


def rows() -> dict[str, Row]:
    """ROWS, and those with few photographs: evenly spaced ones of the training's."""
    own = photographs()
    result = dict(ROWS)
    for count in FEW:
        chosen = [own[k] for k in np.linspace(0, len(own) - 1, 2 * count + 1).round().astype(int)[1::2]]
        few = [f"data.training_frames={','.join(map(str, chosen))}"]
        result[f"feature_mapping_{count}"] = Row(few)
        result[f"without_mapping_{count}"] = Row(["method=without_mapping", *few], f"feature_mapping_{count}")
        result[f"real_only_{count}"] = Row(["method=real_only", *NO_RENDERINGS, *few])
    return result


def baseline_of(row: str) -> str:
    """The row without g of the same images."""
    if row.startswith("published_"):
        return "published_without_mapping"
    count = row.rpartition("_")[2]
    return f"without_mapping_{count}" if count in map(str, FEW) else "without_mapping"


def evaluate(bundle: Path, labels: Path, *options: str) -> dict[str, dict[str, Any]]:
    """evaluation.json of the bundle on the frames that report, by the kind of labels. options: further ones of `fm-pose
    evaluate bop`."""
    text = b"".join(path.read_bytes() for path in sorted(labels.glob("*/scene_gt.json")))
    report = bundle.parent.parent / "reports" / f"{bundle.name}_{hashlib.sha256(text).hexdigest()[:8]}"
    folders = dict(zip(LABELS, (report / "other_labels", report, report / "other_labels_2"), strict=False))
    if not all((f / "evaluation.json").is_file() for f in folders.values()):
        manifest = json.loads((bundle / "manifest.json").read_text())
        frames = manifest["training"]["configuration"]["data"]["report_frames"]
        where = ["--root", DATASET, "--split", "test", "--frames", frames, "--window", "gt", "--views", 1]
        others = [x for path in (labels, CONSENSUS)[: len(LABELS) - 1] for x in ("--labels", path)]
        outputs = ["--csv", report / "poses.csv", "--output", report]
        fm_pose("evaluate", "bop", "--bundle", bundle, *where, *others, *outputs, *options)
    return {kind: json.loads((folder / "evaluation.json").read_text()) for kind, folder in folders.items()}


def shares(evaluation: dict[str, Any]) -> list[float]:
    """Means over the objects, percent."""
    objects = evaluation["objects"].values()
    return [100 * float(np.mean([x[key] for x in objects])) for key in MEASURES.values()]


def log_errors(evaluation: dict[str, Any]) -> list[float]:
    """The logarithm of each instance's 2D projection error, whether or not the estimator's gate let the pose pass."""
    errors = [x.get("projection_2d_px") or LARGEST_ERROR for x in evaluation["instances"]]
    return [math.log(min(LARGEST_ERROR, e)) for e in errors]


def ratio(logs: np.ndarray, baseline: np.ndarray) -> str:
    """Of the errors, from logarithms (seeds, instances): geometric mean, with its standard error over instances, and
    its standard deviation over seeds."""
    seeds = min(len(logs), len(baseline))
    difference = logs[:seeds] - baseline[:seeds]
    mean, over_instances = np.exp(difference.mean()), difference.mean(0).std(ddof=1) / math.sqrt(difference.shape[1])
    over_seeds = f", {mean * difference.mean(1).std(ddof=1):.3f}" if seeds > 1 else ""
    return f"{mean:.3f} ± {mean * over_instances:.3f}{over_seeds}"


def print_table(obj: str, found: dict[str, list[dict[str, dict[str, Any]]]]) -> None:
    """found: the evaluations of each row's seeds."""
    logs = {row: np.array([log_errors(e["corrected"]) for e in seeds]) for row, seeds in found.items()}
    for row, seeds in found.items():
        cells = []
        for kind in LABELS:
            values = np.array([shares(e[kind]) for e in seeds])
            deviation = values.std(0, ddof=1) if len(values) > 1 else np.full(len(MEASURES), np.nan)
            cells += [
                f"{m:.1f}" + (f" ± {d:.1f}" if d == d else "") for m, d in zip(values.mean(0), deviation, strict=True)
            ]
        baseline = baseline_of(row)
        compared = "1" if row == baseline else ratio(logs[row], logs[baseline]) if baseline in logs else ""
        print(f"| {obj} | {row} | {' | '.join(cells)} | {logs[row].shape[1]} × {len(seeds)} | {compared} |")


def main() -> None:
    known = rows()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/lmo"), help="folder of the runs, bundles and reports")
    parser.add_argument(
        "--labels", type=Path, help="folder of `fm-pose relabel` (default: RUNS/labels, made if missing)"
    )
    parser.add_argument("--objects", nargs="+", default=["duck", "holepuncher", "cat"])
    parser.add_argument("--rows", nargs="+", default=MAIN_ROWS, choices=list(known))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the training")
    text = "trainings at a time, each with one thread: the fastest on a CPU (default: one, with all)"
    parser.add_argument("--jobs", type=int, default=1, help=text)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all rows")
    parser.add_argument("--evaluate-only", action="store_true", help="leave out what has not been trained")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    parser.add_argument("--figure", type=Path, help="draw the paper's Figure 4 there (needs --rows … with numbers)")
    args = parser.parse_args()
    runs = args.runs.absolute()
    labels = (args.labels or runs / "labels").absolute()
    if not labels.is_dir():
        fm_pose("relabel", DATASET, "--split", "test", "--output", labels)
    known = {k: Row([*args.set, f"data.labels={labels}", *r.changes], r.pretrained) for k, r in known.items()}
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
        known = {k: Row([*r.changes, "schedule.workers=0"], r.pretrained) for k, r in known.items()}
    if not args.evaluate_only:
        train_all(args.objects, known, args.rows, args.seeds, runs, args.jobs)
    names = [f"{m}, {kind}" for kind in LABELS for m in MEASURES]
    print(
        f"| {' | '.join(['object', 'row', *names, 'n × seeds', 'error / without g'])} |\n|{'---|' * (len(names) + 4)}"
    )
    everything = {}
    for obj in args.objects:
        found: dict[str, list[dict[str, dict[str, Any]]]] = {}
        for row in args.rows:
            bundles = [runs / "bundles" / name_of(f"{obj}_", row, s) for s in args.seeds]
            if there := [b for b in bundles if b.is_dir()]:
                found[row] = [evaluate(b, labels) for b in there]
        print_table(obj, found)
        everything[obj] = {r: {k: [shares(e[k]) for e in seeds] for k in LABELS} for r, seeds in found.items()}
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")
    if args.figure:
        draw_figure_4(everything, args.figure)


def draw_figure_4(everything: dict[str, Any], path: Path) -> None:
    """Of each object and kind of labels: the share below 5 px against the number of photographs, with the deviation
    over seeds. everything: as `--json` writes it."""
    from matplotlib.figure import Figure

    counted = len(photographs())
    figure = Figure(figsize=(4.4 * len(LABELS), 3.8 * len(everything)), layout="constrained")
    axes = figure.subplots(len(everything), len(LABELS), squeeze=False, sharey=True)
    for line, (obj, found) in zip(axes, everything.items(), strict=True):
        for axis, kind in zip(line, LABELS, strict=True):
            for row in ("feature_mapping", "without_mapping", "real_only"):
                counts = {**{c: f"{row}_{c}" for c in FEW}, counted: row}
                there = {n: np.array(found[name][kind])[:, 0] for n, name in counts.items() if name in found}
                means = [x.mean() for x in there.values()]
                deviations = [x.std(ddof=1) if len(x) > 1 else 0.0 for x in there.values()]
                axis.errorbar(list(there), means, deviations, marker="o", capsize=3, label=row.replace("_", " "))
            axis.set(title=f"{obj}, {kind} labels", xlabel="photographs", xscale="log", ylim=(0, 100))
            axis.set_xticks([*FEW, counted], [*map(str, FEW), str(counted)], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        line[0].set_ylabel("2D projection below 5 px, %")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def train_all(
    objects: Sequence[str], known: dict[str, Row], wanted: Sequence[str], seeds: Sequence[int], runs: Path, jobs: int
) -> None:
    """Train and export the rows; those whose pretraining others share come first."""
    first = [r for r in known if any(r in (row, known[row].pretrained) for row in wanted) and not known[r].pretrained]
    then = [r for r in wanted if known[r].pretrained]
    with ThreadPoolExecutor(jobs) as pool:
        for part in (first, then):
            todo = [(o, row, s) for o in objects for s in seeds for row in part]
            list(pool.map(lambda x: train(f"config/train/lmo_{x[0]}.yaml", f"{x[0]}_", known, x[1], x[2], runs), todo))


if __name__ == "__main__":
    main()
