"""`fm-pose relabel`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import add_engine_options, command, load_estimators


def add(verbs: Any, text: str) -> None:
    example = "fm-pose relabel data/lmo --split test --bundle models/duck --output labels"
    p = command(verbs, "relabel", run, text, example)
    text = "a dataset in BOP format, whose labels are right up to one rigid transform per object and arrangement"
    p.add_argument("root", type=Path, metavar="BOP_DIR", help=text)
    p.add_argument("--split", default="test", help="folder with the scenes (default: %(default)s)")
    text = "bundle that predicts the object, best one that never saw these labels; may be given several times"
    p.add_argument("--bundle", type=Path, action="append", required=True, metavar="DIR", help=text)
    text = "where SCENE/scene_gt.json, corrections.json and index.html (before and after) are written"
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help=text)
    add_engine_options(p)


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.objects.bop import BopDataset
    from fm_pose_core.objects.relabel import corrected, relabel, write_labels
    from fm_pose_core.objects.relabel_report import summary, write_report

    dataset = BopDataset(args.root)
    estimators, _ = load_estimators(args, min_score=0.0, max_reprojection_error=1000.0)  # robust means need no gate
    instances = dataset.instances(args.split)
    corrections = relabel(dataset, instances, estimators, show_progress=sys.stderr.isatty())
    write_labels(args.output, corrected(instances, corrections))
    print(summary(dataset, corrections))
    print(f"report: {write_report(dataset, instances, corrections, args.output)}")
