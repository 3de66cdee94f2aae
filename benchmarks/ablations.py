"""Trains the network for several objects once with all its options and once without each, on equal budgets, and prints
the table of docs/results.md. What has been trained is not trained again, so it can be interrupted and called again.

The figures are of the frames that report (config/train/lmo.yaml), true centres, the network's own poses, against the
corrected and the consensus labels: shares of correct poses, means over the objects; the medians of the 2D projection
error, of the rotation's and of the translation's, over all instances, against the corrected labels. The last column
compares a row with the first one instance by instance, as benchmarks/lmo_table.py does: the ratio of the 2D projection
errors, with its standard error over instances, and its standard deviation over seeds.

    FM_POSE_DATA=… python benchmarks/ablations.py --runs runs/ablations [--labels DIR] [--rows …]
    [--seeds 0 1 2] [--jobs 2] [--set schedule.images=100000] [--evaluate-only] [--json FILE]
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from lmo_table import LABELS, MEASURES, evaluate, log_errors, ratio, shares
from rows import ROOT, Row, name_of, train

CONFIG = "config/train/lmo_ablations.yaml"
LABELLED = ROOT / "config/labels/lmo"
EVERYTHING = "everything"
UNOCCLUDED = [f"{kind}.appearance.{key}=0.0" for kind in ("synthetic", "real") for key in ("cutouts", "border")]
SCRATCH = "network.weights="  # not those from ImageNet
NO_ROTATION = "loss.rotation=0.0"  # L_r reads the surface points
ROWS = {
    EVERYTHING: Row(),
    "from_scratch": Row([SCRATCH, "network.extractor=fine"]),
    "coarse_from_scratch": Row([SCRATCH, "network.extractor=compact"]),
    "no_surface": Row(["network.surface=false", NO_ROTATION]),
    "no_rotation": Row([NO_ROTATION]),
    "no_distance": Row(["network.distance=false"]),
    "one_look": Row(["crop.zoom=0.0"]),
    "no_symmetries": Row(["objects.1.symmetries=false"]),
    "unoccluded": Row(UNOCCLUDED),
    "without_mapping": Row(["method=without_mapping"]),
    "wider": Row(["network.width=24", "network.features=192"]),
}
MEDIANS = {"2D error, px": "projection_2d_px", "rotation, °": "rotation_deg", "translation, mm": "translation_mm"}


def medians(evaluation: dict[str, Any]) -> list[float]:
    """Over all instances; one without a pose is infinitely wrong."""
    values = [[x.get(key) for x in evaluation["instances"]] for key in MEDIANS.values()]
    return [float(np.median([np.inf if v is None else v for v in row])) for row in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="folder of runs, bundles and reports")
    parser.add_argument("--labels", type=Path, default=LABELLED, help="folder of `fm-pose relabel`")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with one thread (a CPU's best)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all rows")
    parser.add_argument("--evaluate-only", action="store_true", help="leave out what has not been trained")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    args = parser.parse_args()
    runs, labels = args.runs.absolute(), args.labels.absolute()
    alone = ["schedule.workers=0"] if args.jobs > 1 else []
    if alone:
        os.environ["OMP_NUM_THREADS"] = "1"
    known = {k: Row([f"data.labels={labels}", *alone, *args.set, *r.changes]) for k, r in ROWS.items()}
    todo = [(row, seed) for seed in args.seeds for row in args.rows]
    if not args.evaluate_only:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda x: train(CONFIG, "", known, x[0], x[1], runs), todo))
    found: dict[str, list[dict[str, dict[str, Any]]]] = {}
    for row, seed in todo:
        bundle = runs / "bundles" / name_of("", row, seed)
        if bundle.is_dir():
            found.setdefault(row, []).append(evaluate(bundle, labels, "--refine", "none"))
    print_table(found)
    if args.json:
        figures = {row: {k: [shares(e[k]) for e in seeds] for k in LABELS} for row, seeds in found.items()}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def print_table(found: dict[str, list[dict[str, dict[str, Any]]]]) -> None:
    """found: the evaluations of each row's seeds, by the kind of labels."""
    names = [f"{m}, {kind}" for kind in ("corrected", "consensus") for m in MEASURES]
    print(f"| {' | '.join(['row', *names, *MEDIANS, 'error / everything'])} |\n|{'---|' * (len(names) + 5)}")
    logs = {row: np.array([log_errors(e["corrected"]) for e in seeds]) for row, seeds in found.items()}
    for row, seeds in found.items():
        values = np.array([[*shares(e["corrected"]), *shares(e["consensus"]), *medians(e["corrected"])] for e in seeds])
        cells = [f"{m:.1f}" for m in values.mean(0)]
        if len(values) > 1:
            cells = [f"{c} ± {d:.1f}" for c, d in zip(cells, values.std(0, ddof=1), strict=True)]
        compared = "1" if row == EVERYTHING else ratio(logs[row], logs[EVERYTHING]) if EVERYTHING in logs else ""
        print(f"| {row} | {' | '.join(cells)} | {compared} |")


if __name__ == "__main__":
    main()
