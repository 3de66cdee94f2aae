"""`fm-pose train`."""

import argparse
import os
from pathlib import Path
from textwrap import fill
from typing import Any

from fm_pose_core.cli.options import command, run_experiment
from fm_pose_core.errors import InputError, expect
from fm_pose_core.learning.stopping import StopRequest

PRETRAINED = (
    "skip the pretraining and take its result from another run; that must have the same schedule, because one curve of "
    "the learning rate spans both phases"
)


def add(verbs: Any, text: str) -> None:
    example = "fm-pose train config/train/lmo_duck.yaml --output runs/duck"
    p = command(verbs, "train", run, text, example)
    p.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of the experiment (not with --resume)")
    p.add_argument("--output", metavar="DIR", help="folder of the run (default: runs/ and the name of CONFIG)")
    p.add_argument("--resume", metavar="RUN_DIR", help="go on with this run from its last checkpoint")
    text = (
        "train this part of the run instead, in a folder of its own in the run's: detector, which finds the objects, "
    )
    text += "or refiner, which makes poses more exact"
    p.add_argument("--part", metavar="NAME", help=text)
    p.add_argument("--pretrained", metavar="RUN_DIR", help=PRETRAINED)
    text = "list all keys of a CONFIG for objects, or for hands, with their defaults, and stop"
    p.add_argument("--keys", choices=("objects", "hand"), help=text)
    text = "change one value of CONFIG, such as method=real_only or schedule.images=50000; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def keys_text(section: str) -> str:
    """A paragraph for each key of the task's configuration."""
    from fm_pose_core.config import keys
    from fm_pose_core.tasks import experiment_class

    paragraphs = [
        "base (default: none)\n    Other YAML files beside this one, one or a list, whose keys hold where it has none."
    ]
    for key in keys(experiment_class(section)):
        span = f", {key.span}" if key.span else ""
        text = fill(key.description, 100, initial_indent="    ", subsequent_indent="    ")
        paragraphs.append(f"{key.path} (default: {shown(key.default)}{span})\n{text}".rstrip())
    return "\n".join(paragraphs)


def shown(value: object) -> str:
    """As YAML has it."""
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True)).removesuffix("\n").removesuffix("\n...").strip()


def run(args: argparse.Namespace) -> None:
    if args.keys:
        print(keys_text(args.keys))
        return
    with StopRequest() as stop:
        _train(args, stop)


def _train(args: argparse.Namespace, stop: StopRequest) -> None:
    # Torch and the data process share the cores: torch's waiting threads shall sleep, not spin (a sixth of the speed on
    # two cores), and a software rasteriser shall draw in the thread that asks: with one of its own it is slower, and
    # now and then crashes at the start where two processes train. Both are read when the libraries load.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    from fm_pose_core.files import expanded
    from fm_pose_core.learning.trainer import train
    from fm_pose_core.tasks import load_experiment

    if args.resume is not None:
        others = {"CONFIG": args.config, "--output": args.output, "--pretrained": args.pretrained, "--set": args.set}
        given = ", ".join(name for name, value in others.items() if value)
        expect(not given, "--resume", "no other option: the run's own configuration holds", given)
        folder = Path(args.resume)
        experiment = run_experiment(folder)
    elif args.config is not None:
        folder = Path(args.output) if args.output else Path("runs") / Path(args.config).stem
        experiment = load_experiment(args.config, args.set)
    else:
        raise InputError("train: expected a configuration, or --resume with the folder of a run; got neither")
    if args.part is not None:
        parts = experiment.parts()
        expect(args.part in parts, "--part", f"one of {', '.join(parts)}" if parts else "none for hands", args.part)
        experiment, folder = parts[args.part], folder / args.part
    if stop.made or not train(experiment, folder, expanded(args.pretrained) if args.pretrained else None, stop):
        raise KeyboardInterrupt  # a script must not take it for finished
