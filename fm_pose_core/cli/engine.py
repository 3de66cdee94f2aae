"""`fm-pose engine`."""

import argparse
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import command


def add(verbs: Any, text: str) -> None:
    example = "fm-pose engine models/duck duck_sm89.engine --compute-capability 8.9"
    p = command(verbs, "engine", run, text, example)
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle to build from")
    p.add_argument("output", type=Path, metavar="OUT", help="engine file to write")
    text = "of the GPU that will run it, e.g. 8.9 (default: the GPU of this machine)"
    p.add_argument("--compute-capability", metavar="X.Y", help=text)
    text = "arithmetic (default: %(default)s)"
    p.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help=text)


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.files import write_atomically
    from fm_pose_core.runtime.tensorrt_backend import build_engine
    from fm_pose_core.tasks import load_bundle

    engine = build_engine(load_bundle(args.bundle), args.compute_capability, args.precision)
    write_atomically(args.output, engine)
    print(f"{args.output}: {len(engine) / 1e6:.1f} MB")
