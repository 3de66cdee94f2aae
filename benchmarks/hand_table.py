"""Trains the rows of a table for hands on simulated depth maps of another hand and prints the table: synthetic only,
real only, both without g, and feature mapping, on equal budgets. Scored is a person that no training sees, making the
gestures of the training frames, and bending the fingers at random. What is there is not made again.

    python benchmarks/hand_table.py --mesh right.glb [--runs runs/hand] [--rows …] [--seeds 0 1]
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from rows import ROOT, Row, fm_pose, name_of, train

from fm_pose_core.hands.frames import read_frames
from fm_pose_core.hands.labels import DATASETS, read_labels

# A twentieth of the frames, as where labels are costly (compare the paper's Figure 4 of objects), and a shorter
# training.
FEW = [
    "hand.frames='" + ",".join(map(str, range(0, 2000, 20))) + "'",
    "schedule.pretrain_images=40000",
    "schedule.images=120000",
]
PLAIN = "network.presence=false"  # as in the paper
ROWS = {
    "feature_mapping": Row(),
    "without_mapping": Row(["method=without_mapping"], "feature_mapping"),
    "synthetic_only": Row(["method=synthetic_only"], "feature_mapping"),
    "real_only": Row(["method=real_only"]),
    "mapping_without_L_g": Row(["loss.gamma=0.0"], "feature_mapping"),
    "global_head": Row(["network.extractor=compact_global"]),
    "few_feature_mapping": Row(FEW),
    "few_without_mapping": Row([*FEW, "method=without_mapping"], "few_feature_mapping"),
    "few_real_only": Row([*FEW, "method=real_only"]),
}
ROWS = {name: replace(row, changes=[PLAIN, *row.changes]) for name, row in ROWS.items()}
GESTURE = 12  # frames
MAIN_ROWS = ["feature_mapping", "without_mapping", "synthetic_only", "real_only"]


def relative(logarithms: np.ndarray) -> str:
    """Geometric mean ± standard error of the ratios of all frames, over gestures: neighbouring frames are alike."""
    of_gesture = np.array([part.mean() for part in np.array_split(logarithms, max(2, len(logarithms) // GESTURE))])
    mean = np.exp(of_gesture.mean())
    return f"{mean:.3f} ± {mean * of_gesture.std(ddof=1) / np.sqrt(len(of_gesture)):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", type=Path, required=True, help="rigged hand (GLB) that the simulated camera sees")
    parser.add_argument("--runs", type=Path, default=Path("runs/hand"), help="folder of the data, runs and bundles")
    parser.add_argument("--rows", nargs="+", default=MAIN_ROWS, choices=list(ROWS))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="of the training; figures are means over them"
    )
    arguments = parser.parse_args()
    runs = arguments.runs.absolute()
    data, free = runs / "data", runs / "data_free"
    skin = ["--mesh", arguments.mesh.absolute(), "--mapping", ROOT / "config" / "hand" / "webxr.yaml"]
    for folder, more in ((data, []), (free, ["--fingers", "free", "--photos", 0])):
        if not (folder / "test" / "joint_data.mat").is_file():
            fm_pose("simulate", folder, "--of", "hands", *skin, *more)
    os.environ["FM_POSE_HANDS"] = str(data)
    bundles = {
        name_of("", row, seed): train("config/train/hand.yaml", "", ROWS, row, seed, runs)
        for row in arguments.rows
        for seed in arguments.seeds
    }
    print_table("Gestures, as in the training frames", data, runs / "gestures", bundles, arguments)
    print_table("Fingers bent at random", free, runs / "free", bundles, arguments)


def print_table(title: str, data: Path, output: Path, bundles: dict[str, Path], arguments: argparse.Namespace) -> None:
    """Score all bundles on the test split of `data`."""
    options = [argument for bundle in bundles.values() for argument in ("--bundle", bundle)]
    output.mkdir(exist_ok=True)
    outputs = ["--json", output / "scores.json", "--figure", output / "figure7.png", "--save", output]
    fm_pose("evaluate", "hand", "--dataset", "nyu", "--root", data, "--views", 1, *options, *outputs)
    by_name = {s["name"]: s for s in json.loads((output / "scores.json").read_text())}
    truth = read_frames("nyu", data, "test").joints
    errors = {
        name: np.linalg.norm(read_labels(output / f"{name}.txt", DATASETS["nyu"])[1] - truth, axis=-1).mean(1)
        for name in bundles
    }
    head = (
        "row",
        "mean joint error, mm",
        "all joints < 20 mm, %",
        "all joints < 40 mm, %",
        "frames × seeds",
        "error / without g",
    )
    print(f"\n{title}\n\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in arguments.rows:
        own = [by_name[name_of("", row, seed)] for seed in arguments.seeds]
        within = [100 * np.mean([s["frames_within"][f"{t}mm"] for s in own]) for t in (20, 40)]
        mean = np.mean([s["mean_error_mm"] for s in own])
        ratio, other = "–", "few_without_mapping" if row.startswith("few_") else "without_mapping"
        if other in arguments.rows:
            ratio = relative(
                np.mean(
                    [np.log(errors[name_of("", row, s)] / errors[name_of("", other, s)]) for s in arguments.seeds], 0
                )
            )
        print(f"| {row} | {mean:.1f} | {within[0]:.1f} | {within[1]:.1f} | {own[0]['frames']} × {len(own)} | {ratio} |")
    print(flush=True)


if __name__ == "__main__":
    main()
