"""`fm-pose evaluate bop`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core import __version__
from fm_pose_core.cli.options import Noted, add_engine_options, command, estimator_config, given
from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import expect

if TYPE_CHECKING:
    from fm_pose_core.objects.bop import BopDataset
    from fm_pose_core.objects.cases import Evaluation
    from fm_pose_core.objects.evaluation import OfObject

ENGINE = ("backend", "precision", "views", "refine", "support")
OF_A_RUN = ("--window", "--displace", "--seed", "--csv", "--keep-rejected", *(f"--{x}" for x in ENGINE))


def add(what: Any) -> None:
    example = (
        "fm-pose evaluate bop --bundle models/duck --root data/lmo --split test --window gt "
        "--csv duck.csv --output report"
    )
    p = command(what, "bop", run, "score bundles, or a result file, on a dataset in BOP format", example)
    source = p.add_mutually_exclusive_group(required=True)
    text = "bundle to evaluate; may be given several times, once per object"
    source.add_argument("--bundle", type=Path, action="append", metavar="DIR", help=text)
    source.add_argument("--results", type=Path, metavar="FILE.csv", help="score this BOP result file instead")
    text = "the dataset: models/ (or models_eval/) and the split's folder"
    p.add_argument("--root", type=Path, required=True, metavar="BOP_DIR", help=text)
    p.add_argument("--split", default="test", help="folder with the scenes (default: %(default)s)")
    text = "also score against these labels: a scene_gt.json, or a folder with SCENE/scene_gt.json; may be repeated"
    p.add_argument("--labels", type=Path, action="append", default=[], metavar="FILE", help=text)
    _add_windows_and_outputs(p)
    _add_choice_of_instances(p)
    text = "count poses that the estimator's own gate refused, too (default: they are absent, so failures)"
    p.add_argument("--keep-rejected", action="store_true", help=text)
    add_engine_options(p, *ENGINE)


def _add_windows_and_outputs(p: argparse.ArgumentParser) -> None:
    text = (
        "centre of the window: gt (true projection of the box's centre), detect (the bundle's own detector; unsure "
        "poses count, as the labels tell what is there), or 2D detections: BOP .json, or .csv with "
        "scene_id,im_id,obj_id,u,v[,score] (default: %(default)s)"
    )
    p.add_argument("--window", action=Noted, default="gt", metavar="gt|detect|FILE", help=text)
    text = "move each window by a random vector from a disc of this radius, pixels (default: %(default)s)"
    p.add_argument("--displace", action=Noted, type=float, default=0.0, metavar="PX", help=text)
    text = "of --displace (default: %(default)s)"
    p.add_argument("--seed", action=Noted, type=int, default=0, metavar="N", help=text)
    text = "write the accepted poses as a BOP result file (mm, s)"
    p.add_argument("--csv", action=Noted, type=Path, metavar="OUT.csv", help=text)
    text = "write evaluation.json and index.html (curves, calibration, pictures)"
    p.add_argument("--output", type=Path, metavar="REPORT_DIR", help=text)


def _add_choice_of_instances(p: argparse.ArgumentParser) -> None:
    text = (
        'image ids to take: "3-300,474", or a text file with such entries; '
        'in a split with several scenes "2/3-300,5/*", scene 5 whole'
    )
    p.add_argument("--frames", metavar="IDS", help=text)
    text = "with --results: score this object alone; may be repeated"
    p.add_argument("--object", type=int, action="append", metavar="ID", help=text)
    text = "in a dataset without targets file: least visible fraction (default: %(default)s)"
    p.add_argument("--min-visibility", type=float, default=0.1, metavar="F", help=text)
    text = "score every annotated instance, whatever the targets file or the visibility"
    p.add_argument("--all-instances", action="store_true", help=text)


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.objects.bop import BopDataset, write_results
    from fm_pose_core.objects.evaluation import against

    dataset = BopDataset(args.root)
    expect(0 <= args.min_visibility <= 1, "--min-visibility", "a fraction from 0 to 1", args.min_visibility)
    evaluation = (_of_results if args.results else _of_bundles)(args, dataset)
    evaluation.settings["frames"] = args.frames
    evaluations = {"the dataset's labels": (evaluation, args.output)}
    for k, labels in enumerate(args.labels, start=1):
        folder = args.output / (f"other_labels_{k}" if k > 1 else "other_labels") if args.output else None
        evaluations[str(labels)] = (against(evaluation, dataset, labels), folder)
    if args.csv:
        write_results(args.csv, evaluation.results())
    for name, (scored, folder) in evaluations.items():
        print((f"against {name}\n" if len(evaluations) > 1 else "") + scored.table())
        if folder:
            from fm_pose_core.objects.report import write_report

            print(f"report: {write_report(scored, dataset, folder)}")


def _of_results(args: argparse.Namespace, dataset: "BopDataset") -> "Evaluation":
    from fm_pose_core.objects.bop import read_results
    from fm_pose_core.objects.evaluation import evaluate_results

    foreign = given(args, *OF_A_RUN)
    expect(not foreign, "--results", "no option that is about running a bundle", foreign)
    evaluation = evaluate_results(dataset, args.split, read_results(args.results), args.object, **_choice(args))
    evaluation.settings["results"] = str(args.results)
    return evaluation


def _of_bundles(args: argparse.Namespace, dataset: "BopDataset") -> "Evaluation":
    from fm_pose_core.objects.evaluation import evaluate_bop

    expect(not args.object, "--object", "to be used with --results", "--bundle")
    choice = _choice(args)
    estimators, description = _load_estimators(args)
    evaluation = evaluate_bop(
        dataset,
        args.split,
        estimators,
        window=args.window,
        displace=args.displace,
        seed=args.seed,
        keep_rejected=args.keep_rejected,
        show_progress=sys.stderr.isatty(),
        **choice,
    )
    evaluation.settings.update(description)
    return evaluation


def _choice(args: argparse.Namespace) -> dict[str, Any]:
    """Which instances count, as `select_instances` takes it."""
    from fm_pose_core.files import Frames

    frames = Frames.parse(args.frames) if args.frames else None
    return {"frames": frames, "min_visibility": args.min_visibility, "all_instances": args.all_instances}


def _load_estimators(args: argparse.Namespace) -> "tuple[dict[int, OfObject], dict[str, Any]]":
    """The estimators by object id, and what to note about them."""
    from fm_pose_core.objects.estimator import PoseEstimator
    from fm_pose_core.objects.evaluation import OfObject

    config = estimator_config(EstimatorConfig, args, refine=args.refine, support=args.support)
    loaded = [PoseEstimator.load(path, config) for path in args.bundle]
    estimators: dict[int, OfObject] = {}
    for estimator in loaded:
        for known in estimator.bundle.objects:
            again = known.object_id in estimators
            expect(not again, "--bundle", "one bundle per object", f"two of object {known.object_id}")
            estimators[known.object_id] = OfObject(estimator, known.name)
    backend = loaded[0].backend
    return estimators, {
        "bundles": [str(b) for b in args.bundle],
        "backend": f"{backend.name} {backend.precision} on {backend.device}",
        "views": config.views,
        "refine": config.refine,
        "support": config.support,
        "fm_pose_version": __version__,
    }
