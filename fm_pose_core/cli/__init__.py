"""`fm-pose`: verbs plus paths, one module per verb. Knobs of a training live in its YAML.

What is heavy is imported inside the commands."""

import argparse
import os
import sys
from collections.abc import Sequence

from fm_pose_core import __version__
from fm_pose_core.cli import bundle, download, engine, evaluate, export, infer, simulate, train
from fm_pose_core.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned: 0, 2 for bad input (one line on stderr), 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"fm-pose: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fm-pose: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `fm-pose … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at exit
        return 141
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fm-pose",
        description="6D object pose from one RGB image by feature mapping: train, evaluate, export, run.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (train, export, evaluate, simulate, download, infer, bundle, engine):
        verb.add(verbs)
    return parser
