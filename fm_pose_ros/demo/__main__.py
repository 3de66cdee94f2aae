"""Entry point of the demo."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fm_pose_core.errors import InputError, expect
from fm_pose_ros.demo import hands, objects, scenes
from fm_pose_ros.demo.player import ROOT

PARTS = {"object": objects, "hand": hands, "scene": scenes}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a node did not start, or found nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m fm_pose_ros.demo", description="Play recorded sequences into the nodes."
    )
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, part in PARTS.items():
        _add_part(parts, name, part)
    args = parser.parse_args(argv)
    try:
        expect(args.rate > 0, "--rate", "frames per second, above 0", args.rate)
        expect(args.every > 0, "--every", "a number from 1", args.every)
        PARTS[args.part].run(args)
    except InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _add_part(parts: Any, name: str, part: ModuleType) -> None:
    what = f"play a sequence into {part.NODE}"
    p = parts.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    bundle, sequence = ROOT / "models" / part.BUNDLE, ROOT / "demo" / part.SEQUENCE
    p.add_argument("--bundle", type=Path, default=bundle, help="bundle to run (default: %(default)s)")
    text = f"{part.LAYOUT} with the frames (default: %(default)s)"
    p.add_argument("--sequence", type=Path, default=sequence, help=text)
    p.add_argument("--split", default="test", help="split of the dataset (default: %(default)s)")
    part.add_arguments(p)
    output = Path("demo_output") / name
    p.add_argument("--output", type=Path, default=output, help="folder for the results (default: %(default)s)")
    p.add_argument("--rate", type=float, default=10.0, help="frames per second (default: %(default)s)")
    text = "play these frames only, such as 0-29,60 (hands: counted from 0)"
    p.add_argument("--frames", metavar="IDS", help=text)
    p.add_argument("--every", type=int, default=5, help="print every so many rows (default: %(default)s)")
    text = "a parameter of the node, such as views=1; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    text = "seconds to wait for the answer to a frame (default: %(default)s)"
    p.add_argument("--timeout", type=float, default=3.0, help=text)


if __name__ == "__main__":
    sys.exit(main())
