"""`fm-pose simulate`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import Noted, command, given
from fm_pose_core.errors import expect

PHOTOS, FRAMES = {"object": 120, "hands": 2000}, {"object": 90, "hands": 500}


def add(verbs: Any, text: str) -> None:
    p = command(verbs, "simulate", run, text, "fm-pose simulate demo_data")
    text = "folder to write: a BOP dataset, or for hands NYU's layout"
    p.add_argument("output", type=Path, metavar="OUTPUT_DIR", help=text)
    p.add_argument("--of", choices=tuple(PHOTOS), default="object", help="what is seen (default: %(default)s)")
    text = "labelled training images (default: 120 of the object, 2000 of hands)"
    p.add_argument("--photos", type=int, metavar="N", help=text)
    p.add_argument("--frames", type=int, metavar="N", help="frames of the sequence, split test (default: 90, 500)")
    _add_hand_options(p)
    text = "of set-ups, viewpoints and noise (default: %(default)s)"
    p.add_argument("--seed", type=int, default=0, metavar="S", help=text)
    text = "of the JPEG files, 1 to 100 (default: %(default)s)"
    p.add_argument("--quality", action=Noted, type=int, default=82, metavar="Q", help=text)


def _add_hand_options(p: argparse.ArgumentParser) -> None:
    text = "rigged hand to photograph instead of our own, with --mapping"
    p.add_argument("--mesh", action=Noted, type=Path, metavar="FILE.glb", help=text)
    text = "names of the rigged hand's nodes, as config/hand/webxr.yaml"
    p.add_argument("--mapping", action=Noted, type=Path, metavar="FILE.yaml", help=text)
    sensors, text = ("structured_light", "time_of_flight"), "depth sensor (default: %(default)s)"
    p.add_argument("--sensor", action=Noted, choices=sensors, default=sensors[0], help=text)
    kinds = ("gestures", "free")
    text = "hands make gestures, or bend each finger by itself at random (default: %(default)s)"
    p.add_argument("--fingers", action=Noted, choices=kinds, default=kinds[0], help=text)


def run(args: argparse.Namespace) -> None:
    photos = PHOTOS[args.of] if args.photos is None else args.photos
    frames = FRAMES[args.of] if args.frames is None else args.frames
    expect(photos >= 0, "--photos", "a number from 0", photos)
    expect(frames >= 0, "--frames", "a number from 0", frames)
    expect(args.seed >= 0, "--seed", "a number from 0", args.seed)
    (_object if args.of == "object" else _hands)(args, photos, frames)


def _object(args: argparse.Namespace, photos: int, frames: int) -> None:
    foreign = given(args, "--mesh", "--mapping", "--sensor", "--fingers")
    expect(not foreign, "--of object", "no option that is about hands", foreign)
    expect(1 <= args.quality <= 100, "--quality", "a number from 1 to 100", args.quality)
    from fm_pose_core.simulation.dataset import simulate

    print(simulate(args.output, photos, frames, args.seed, args.quality))


def _hands(args: argparse.Namespace, photos: int, frames: int) -> None:
    foreign = given(args, "--quality")
    expect(not foreign, "--of hands", "no option that is about photographs of the object", foreign)
    expect((args.mesh is None) == (args.mapping is None), "--mesh and --mapping", "both or neither", "one")
    from fm_pose_core.config import read_yaml
    from fm_pose_core.hands.model.rigged import rigged_hand
    from fm_pose_core.rendering.depth_sensor import DepthSensorConfig
    from fm_pose_core.simulation.hands import simulate_hands

    hand = rigged_hand(args.mesh, read_yaml(args.mapping)) if args.mesh else None
    sensor = DepthSensorConfig(kind=args.sensor)
    print(simulate_hands(args.output, photos, frames, args.seed, hand, sensor, args.fingers, sys.stderr.isatty()))
