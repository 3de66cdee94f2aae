"""`fm-pose engine`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core.cli.options import add_engine_options, command, group, show_log
from fm_pose_core.errors import InputError, expect

if TYPE_CHECKING:
    from fm_pose_core.bundle import Network
    from fm_pose_core.runtime import Images

WINDOWS = (1, 4, 16)  # in a timed call: a window, one with its views, four with theirs
# Of a network's first output: unit, and its factor.
UNITS = {"corners": (" px", 1.0), "centre": (" px", 1.0), "joints": (" mm", 1e3)}


def add(verbs: Any, text: str) -> None:
    what = group(verbs, "engine", text)
    text = "build a bundle's TensorRT engine and keep it, so that a node with this bundle starts at once"
    p = command(what, "build", run, text, "fm-pose engine build --bundle models/duck --arch sm_89")
    p.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle to build from")
    text = "of the GPU that will run it, with tensorrt_rtx also without a GPU (default: the GPU of this machine)"
    p.add_argument("--arch", metavar="sm_XY", help=text)
    text = "arithmetic (default: %(default)s)"
    p.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help=text)
    text = "folder to keep it in, to copy it to a robot's (default: $XDG_CACHE_HOME or ~/.cache, fm_pose/engines)"
    p.add_argument("--cache", type=Path, metavar="DIR", help=text)
    text = "compare what an engine answers with ONNX Runtime's answers, and time it"
    p = command(what, "check", run, text, "fm-pose engine check --bundle models/duck --backend openvino")
    p.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle to check with")
    add_engine_options(p, "backend", "precision")
    text = "timed calls for each number of windows (default: %(default)s)"
    p.add_argument("--runs", type=int, default=200, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    show_log()
    {"build": build, "check": check}[args.what](args)


def build(args: argparse.Namespace) -> None:
    from fm_pose_core.runtime.cuda_driver import Driver
    from fm_pose_core.runtime.engine_cache import cache_folder
    from fm_pose_core.tasks import load_bundle

    bundle, folder = load_bundle(args.bundle), args.cache or cache_folder()
    try:
        architecture = args.arch or Driver().architecture
    except InputError as error:
        raise InputError(f"{error}; --arch builds for the GPU of another machine") from None
    for network in bundle.networks:
        _build(network, architecture, args, folder)


def _build(network: "Network", architecture: str, args: argparse.Namespace, folder: Path) -> None:
    from fm_pose_core.runtime.engine_cache import read_engine, write_engine
    from fm_pose_core.runtime.tensorrt_backend import build_engine, fingerprint

    key = fingerprint(network, architecture, args.precision)
    try:
        engine = read_engine(folder, key)
    except InputError as error:
        print(f"fm-pose: {error}; it is built again", file=sys.stderr)
        engine = None
    how = "is there already"
    if engine is None:
        engine, how = build_engine(network, args.arch, args.precision), "built"
        write_engine(folder, key, engine)
    print(f"{folder / key.file_name}: {how}, {len(engine) / 1e6:.1f} MB, {key.package} {key.version}")


def check(args: argparse.Namespace) -> None:
    from fm_pose_core.tasks import load_bundle

    expect(args.runs > 0, "--runs", "a positive number", args.runs)
    bundle = load_bundle(args.bundle)
    for network in bundle.networks:
        print(f"{'network':12} {network.network.file}")
        _check(network, bundle.sample() if network is bundle else None, args)
    print(f"{'verdict':12} all is well")


def _check(network: "Network", sample: "Images | None", args: argparse.Namespace) -> None:
    """sample: windows as the network sees them, if the bundle has some."""
    import time

    import numpy as np

    from fm_pose_core.config import EngineConfig
    from fm_pose_core.runtime import load_backend
    from fm_pose_core.runtime.check import AGREES, difference, latency, random_windows

    start = time.perf_counter()
    backend = load_backend(network, EngineConfig(backend=args.backend, precision=args.precision))
    seconds = time.perf_counter() - start
    print(f"{'engine':12} {backend.name}, {backend.precision}, on {backend.device}; loaded in {seconds:.1f} s")
    windows = random_windows(network.contract, 4) if sample is None else sample
    kind = "random patches" if sample is None else "windows of the bundle"
    off = difference(backend, network, windows)
    what = network.contract.outputs[0].name
    unit, factor = UNITS.get(what, ("", 1.0))
    told = f"{factor * off.median:.3g}{unit} in the median, {factor * off.largest:.3g}{unit} at most"
    print(f"{'difference':12} {told}, from ONNX Runtime's {what} in fp32 ({len(windows)} {kind})")
    for n in WINDOWS if what != "centre" else (1,):  # whole images come one by one
        times = latency(backend, np.resize(windows, (n, *windows.shape[1:])), args.runs)
        told = ", ".join(f"{x:.2f} ms ({name})" for name, x in zip(("median", "95 %", "99 %"), times, strict=True))
        print(f"{'latency':12} {n:2} window{'s' if n > 1 else ' '}  {told}")
    if not off.agrees:
        wanted = f"{what} within {AGREES:.0%} of ONNX Runtime's, measured by the output's scale"
        raise InputError(f"{backend.name}, {backend.precision}: expected {wanted}, got {off.relative:.1%}")
