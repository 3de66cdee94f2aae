"""`fm-pose relabel`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import command


def add(verbs: Any, text: str) -> None:
    example = "fm-pose relabel data/lmo --split test --output labels"
    p = command(verbs, "relabel", run, text, example)
    text = "a dataset in BOP format, whose labels are right up to one rigid transform per object and arrangement"
    p.add_argument("root", type=Path, metavar="BOP_DIR", help=text)
    p.add_argument("--split", default="test", help="folder with the scenes (default: %(default)s)")
    text = "ids of the objects whose labels are corrected (default: all)"
    p.add_argument("--objects", type=int, nargs="+", default=[], metavar="ID", help=text)
    text = "leave out the labels that are neither corrected nor confirmed (default: they stay as they are)"
    p.add_argument("--sure-alone", action="store_true", help=text)
    text = "where SCENE/scene_gt.json, corrections.json and index.html (before and after) are written"
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help=text)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from fm_pose_core.errors import expect
    from fm_pose_core.objects.bop import BopDataset
    from fm_pose_core.objects.relabel import corrected, relabel, write_labels
    from fm_pose_core.objects.relabel_report import summary, write_report

    dataset = BopDataset(args.root)
    own = args.output.resolve() == (args.root / args.split).resolve()
    expect(not own, "--output", "another folder than the dataset's split, whose labels it would replace", args.output)
    instances = dataset.instances(args.split)
    total = sum(not args.objects or x.object_id in args.objects for x in instances)
    with tqdm(desc="relabel", total=total, unit="label", disable=not sys.stderr.isatty()) as bar:
        corrections = relabel(dataset, instances, args.objects, bar.update)
    write_labels(args.output, corrected(instances, corrections, args.sure_alone))
    print(summary(dataset, corrections))
    print(f"report: {write_report(dataset, instances, corrections, args.output)}")
