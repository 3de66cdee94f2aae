"""`fm-pose export`."""

import argparse
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import command, run_experiment


def add(verbs: Any, text: str) -> None:
    example = "fm-pose export runs/duck models/duck --precision fp16"
    p = command(verbs, "export", run, text, example)
    p.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a training run")
    p.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR", help="folder to write")
    text = "how weights are stored (default: %(default)s)"
    p.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help=text)
    text = "what an object's poses are refined by (default: what makes those of the validation frames better)"
    p.add_argument("--refine", choices=("auto", "none", "edges", "features", "both"), default="auto", help=text)
    text = (
        "whether the bundle knows how its objects stand on a plane, such as a table, in the training images "
        "(default: if that makes poses of the validation frames better)"
    )
    p.add_argument("--support", choices=("auto", "none", "always"), default="auto", help=text)


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.learning.export import export

    experiment = run_experiment(args.run_dir)
    made = export(experiment, args.run_dir, args.bundle_dir, args.precision, args.refine, args.support)
    size = sum(p.stat().st_size for p in made.path.iterdir()) / 1e6
    print(f"{made.path}: {made.name}, {size:.1f} MB")
    trained = made.manifest.training.get("trained", {})
    if trained and trained["images"] < trained["of"]:
        images = f"{trained['images']} of {trained['of']} images"
        print(f"fm-pose: the training is not finished: {images}; go on with: fm-pose train --resume {args.run_dir}")
