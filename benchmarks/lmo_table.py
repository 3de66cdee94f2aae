"""Trains every row of docs/results.md on Occlusion-LINEMOD and prints the table: synthetic only, real only, both without g, and
feature mapping, on equal budgets, for each object. What has been trained already is not trained again, so it can be
interrupted and called again.

    FM_POSE_DATA=… python benchmarks/lmo_table.py --runs runs/lmo [--objects duck holepuncher] [--rows …] [--evaluate-only]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Row -> what changes in the configuration. The photo-coloured views are renderings, so that "real only" goes without them.
ROWS = {
    "feature_mapping": [],
    "without_mapping": ["method=without_mapping"],
    "synthetic_only": ["method=synthetic_only"],
    "real_only": ["method=real_only", "real.novel_views=0.0"],
    "real_only_novel_views": ["method=real_only"],
    "feature_mapping_no_novel_views": ["real.novel_views=0.0"],
    "global_head": ["network.extractor=compact_global"],
}
MAIN_ROWS = ["feature_mapping", "without_mapping", "synthetic_only", "real_only"]
PRETRAINED_ALIKE = {"without_mapping", "synthetic_only", "feature_mapping_no_novel_views"}
SEEDS = range(5)  # of the displaced centres
COLUMNS = {"n": "count", "proj": "projection_2d_5px", "add": "add_10_percent", "cm_deg": "5cm_5deg"}  # ours: evaluation.json's


def fm_pose(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "fm_pose_core.cli", *map(str, arguments)], check=True, cwd=ROOT)


def train(obj: str, row: str, runs: Path) -> Path:
    """The row's bundle; trained and exported if it is not there."""
    run, bundle = runs / f"{obj}_{row}", runs / "bundles" / f"{obj}_{row}"
    if bundle.is_dir():
        return bundle
    if (run / "checkpoint.pt").is_file():
        fm_pose("train", "--resume", run)
    else:
        changes = [argument for change in ROWS[row] for argument in ("--set", change)]
        pretrained = ["--pretrained", runs / f"{obj}_feature_mapping"] if row in PRETRAINED_ALIKE else []
        fm_pose("train", f"config/train/lmo_{obj}.yaml", "--output", run, *changes, *pretrained)
    fm_pose("export", run, bundle)
    return bundle


def validation_frames(bundle: Path) -> str:
    manifest = json.loads((bundle / "manifest.json").read_text())
    frames: str = manifest["training"]["configuration"]["object"]["validation_frames"]
    return frames


def scores(bundle: Path, displace: float, seed: int) -> dict[str, float]:
    """Shares of the validation targets: 2D projection, ADD, 5 cm 5°, as `fm-pose evaluate` counts them (a refused pose is a failure)."""
    name = f"displaced{displace:g}_{seed}" if displace else "centred"
    report = bundle.parent.parent / "reports" / f"{bundle.name}_{name}"
    root = Path(os.path.expandvars("$FM_POSE_DATA")) / "lmo"
    if not (report / "evaluation.json").is_file():
        options = ["--displace", displace, "--seed", seed] if displace else []
        frames = validation_frames(bundle)
        fm_pose("evaluate", "bop", "--bundle", bundle, "--root", root, "--split", "test", "--window", "gt", "--frames", frames, *options,
                "--csv", report / "poses.csv", "--output", report)  # fmt: skip
    (summary,) = json.loads((report / "evaluation.json").read_text())["objects"].values()
    return {name: summary[key] for name, key in COLUMNS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/lmo"), help="folder of the runs, bundles and reports")
    parser.add_argument("--objects", nargs="+", default=["duck", "holepuncher"])
    parser.add_argument("--rows", nargs="+", default=MAIN_ROWS, choices=list(ROWS))
    parser.add_argument("--evaluate-only", action="store_true", help="leave out rows that have not been trained")
    arguments = parser.parse_args()
    runs = arguments.runs.absolute()
    lines = ["| object | row | 2D projection, true centre | displaced ≤ 10 px | ADD, true centre | displaced | 5 cm 5° | n |", "|---|---|---|---|---|---|---|---|"]
    for obj in arguments.objects:
        for row in arguments.rows:
            bundle = runs / "bundles" / f"{obj}_{row}"
            if arguments.evaluate_only and not bundle.is_dir():
                continue
            bundle = train(obj, row, runs)
            centred = scores(bundle, 0.0, 0)
            displaced = [scores(bundle, 10.0, seed) for seed in SEEDS]
            mean = {k: sum(d[k] for d in displaced) / len(displaced) for k in centred}
            lines.append(
                f"| {obj} | {row} | {100 * centred['proj']:.1f} | {100 * mean['proj']:.1f} | {100 * centred['add']:.1f} | {100 * mean['add']:.1f} "
                f"| {100 * centred['cm_deg']:.1f} | {centred['n']} |"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
