"""`fm-pose evaluate hand`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core.cli.options import Noted, add_engine_options, command, estimator_config, given
from fm_pose_core.config import HandEstimatorConfig
from fm_pose_core.errors import expect

if TYPE_CHECKING:
    from fm_pose_core.hands.evaluation import HandScore

OF_A_RUN = ("--root", "--split", "--window", "--refine", "--mirror", "--save", "--backend", "--precision", "--views")


def add(what: Any) -> None:
    text = "score 3D hand joints, from files in the published format or by running a bundle"
    example = (
        "fm-pose evaluate hand --dataset nyu --groundtruth labels.txt "
        "--predictions ours.txt theirs.txt --figure figure7.png"
    )
    p = command(what, "hand", run, text, example)
    p.add_argument("--dataset", required=True, choices=("nyu", "icvl"), help="its camera and its joints")
    p.add_argument("--groundtruth", type=Path, metavar="FILE", help="true joints: u v d of each, a line per frame")
    text = "predicted joints in the same format"
    p.add_argument("--predictions", type=Path, nargs="+", default=[], metavar="FILE", help=text)
    _add_bundle_options(p)
    text = "draw the fraction of frames with all joints within a distance (Figure 7)"
    p.add_argument("--figure", type=Path, metavar="FILE", help=text)
    p.add_argument("--json", type=Path, metavar="FILE", help="write the scores as JSON")
    add_engine_options(p)


def _add_bundle_options(p: argparse.ArgumentParser) -> None:
    text = "run this bundle on the depth maps of --root"
    p.add_argument("--bundle", type=Path, action="append", default=[], metavar="DIR", help=text)
    text = "folder of the dataset's depth maps and annotations, for --bundle"
    p.add_argument("--root", action=Noted, type=Path, metavar="DIR", help=text)
    p.add_argument("--split", action=Noted, default="test", help="with --root (default: %(default)s)")
    text = "cube near the true joints, or where the estimator finds the hand (default: %(default)s)"
    p.add_argument("--window", action=Noted, choices=("gt", "search"), default="gt", help=text)
    p.add_argument("--refine", action="store_true", help="cut a second time around the first answer")
    p.add_argument("--mirror", action="store_true", help="the hands are of the other side than the bundle's")
    text = "write the bundles' predictions there, in the published format"
    p.add_argument("--save", action=Noted, type=Path, metavar="DIR", help=text)


def run(args: argparse.Namespace) -> None:
    import json

    from fm_pose_core.files import write_atomically
    from fm_pose_core.hands.evaluation import draw_figure_7, table

    expect(bool(args.predictions or args.bundle), "evaluate hand", "--predictions or --bundle", "neither")
    expect(not args.predictions or args.groundtruth is not None, "--groundtruth", "a file, with --predictions", "none")
    foreign = "" if args.bundle else given(args, *OF_A_RUN)
    expect(not foreign, "--predictions", "no option that is about running a bundle", foreign)
    expect(not args.bundle or args.root is not None, "--root", "the dataset's folder, with --bundle", "none")
    scores = (_of_files(args) if args.predictions else []) + (_of_bundles(args) if args.bundle else [])
    print(table(scores))
    if args.figure:
        draw_figure_7(scores, args.figure)
    if args.json:
        write_atomically(args.json, json.dumps([s.to_json() for s in scores], indent=2).encode())


def _of_files(args: argparse.Namespace) -> "list[HandScore]":
    from fm_pose_core.hands.evaluation import score_joints
    from fm_pose_core.hands.labels import DATASETS, read_labels

    dataset = DATASETS[args.dataset]
    truth = read_labels(args.groundtruth, dataset)[1]
    return [score_joints(path.stem, truth, read_labels(path, dataset)[1], dataset.joints) for path in args.predictions]


def _of_bundles(args: argparse.Namespace) -> "list[HandScore]":
    from fm_pose_core.hands.estimator import HandEstimator
    from fm_pose_core.hands.evaluation import predict_joints, score_joints
    from fm_pose_core.hands.frames import read_frames
    from fm_pose_core.hands.labels import DATASETS, write_joints

    frames = read_frames(args.dataset, args.root, args.split)
    config = estimator_config(HandEstimatorConfig, args, min_score=0.0, min_presence=0.0)
    scores = []
    for path in args.bundle:
        estimator = HandEstimator.load(path, config, refine=args.refine, mirror=args.mirror)
        joints = predict_joints(estimator, frames, args.window == "gt", sys.stderr.isatty())
        scores.append(score_joints(path.name, frames.joints, joints, DATASETS[args.dataset].joints))
        if args.save:
            write_joints(args.save / f"{path.name}.txt", frames.dataset, joints)
    return scores
