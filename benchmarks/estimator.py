"""Latency of each stage of the estimator, per backend, as JSON with the hardware named.

    python benchmarks/estimator.py BUNDLE … [--backends openvino onnxruntime] [--runs 300] [--threads 0] [--width 640
    --height 480] [--distorted]

One noise image goes through crop, network (batch 1, and 4, the default number of views) and PnP again and again. Since
a network's answer to noise is no pose, PnP gets the corners of a plausible pose, with noise of 1 px, in place of that
answer. For a bundle of hands, a depth map of demo/hands is searched for the hand, again and again.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hardware import hardware

from fm_pose_core import Camera, EstimatorConfig, PoseEstimator, Window, __version__
from fm_pose_core.config import HandEstimatorConfig
from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import apply, exp_so3, transform
from fm_pose_core.hands.bundle import HandBundle
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.frames import read_frames
from fm_pose_core.hands.locate import Search, Tracked
from fm_pose_core.objects.pnp import solve_pnp
from fm_pose_core.runtime import Backend
from fm_pose_core.tasks import load_bundle

ROOT = Path(__file__).resolve().parents[1]

DISTORTION = [0.1, -0.2, 0.001, 0.001, 0.05]  # of a usual lens, plumb_bob


def percentiles(call: Callable[[], Any], runs: int) -> dict[str, float]:
    """Milliseconds of `call` over `runs` calls after a warm-up."""
    for _ in range(max(5, runs // 20)):
        call()
    times = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        call()
        times[i] = time.perf_counter() - start
    return {f"p{p}": round(float(np.percentile(times, p)) * 1e3, 3) for p in (5, 50, 95, 99)}


def bare(bundle: Path, backend: str, pixels: np.ndarray, options: argparse.Namespace) -> Callable[[], Any] | None:
    """A call of the engine itself, as its own documentation has it."""
    path = bundle / "network.onnx"
    if backend == "openvino":
        import openvino as ov

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        settings |= {"INFERENCE_NUM_THREADS": str(options.threads)} if options.threads else {}
        request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(pixels))
        return lambda: request.infer()
    if backend == "onnxruntime":
        import onnxruntime as ort

        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        session = ort.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"image": pixels})
    return None


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> float:
    """Of the medians of two calls, in turn, so that both meet the same load."""
    times = np.empty((runs, 2))
    for _ in range(10):
        ours(), theirs()
    for i in range(runs):
        for k, call in enumerate((ours, theirs)):
            start = time.perf_counter()
            call()
            times[i, k] = time.perf_counter() - start
    ours_median, theirs_median = np.median(times, axis=0)
    return float(ours_median / theirs_median)


class Plausible:
    """The backend, whose answers are exchanged for the given corners (8, 2) and spread (8, 2)."""

    def __init__(self, backend: Backend, corners: np.ndarray, spread: np.ndarray) -> None:
        self.name, self.device, self.precision = backend.name, backend.device, backend.precision
        self._backend, self._corners, self._spread = backend, corners, spread

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self._backend.infer(images)
        return {"corners": np.stack([self._corners] * len(images)), "spread": np.stack([self._spread] * len(images))}


def measure_hand(bundle: Path, backend: str, options: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    estimator = HandEstimator.load(bundle, HandEstimatorConfig(backend=backend, threads=options.threads))
    loading = time.perf_counter() - start
    frames = read_frames("nyu", ROOT / "demo/hands", "test")
    depth, camera = frames.depth(0), frames.camera
    search = Search(estimator.search, estimator.bundle.hand.cube)
    single = HandEstimator(estimator.bundle, estimator.backend, HandEstimatorConfig(views=1))
    found = estimator.estimate(depth, camera)
    expect(found is not None, "the depth map", "a hand", "none")
    assert found is not None
    tracked = Tracked(search, found.joints.mean(0))
    size = estimator.bundle.contract.image_shape
    windows = {n: np.zeros((n, *size), np.float32) for n in (1, 4)}
    infer = estimator.backend.infer
    return {
        "backend": estimator.backend.name,
        "device": estimator.backend.device,
        "precision": estimator.backend.precision,
        "load_s": round(loading, 3),
        "candidates": len(search.locate(depth, camera)),
        "milliseconds": {
            "search": percentiles(lambda: search.locate(depth, camera), options.runs),
            **{f"network_of_{n}": percentiles(partial(infer, x), options.runs) for n, x in windows.items()},
            "estimate": percentiles(lambda: single.estimate(depth, camera), options.runs),
            "estimate_of_4_views": percentiles(lambda: estimator.estimate(depth, camera), options.runs),
            "tracked_of_4_views": percentiles(lambda: estimator.estimate(depth, camera, tracked), options.runs),
        },
    }


def measure(bundle: Path, backend: str, options: argparse.Namespace) -> dict[str, Any]:
    if load_bundle(bundle).TASK == HandBundle.TASK:
        return measure_hand(bundle, backend, options)
    start = time.perf_counter()
    estimator = PoseEstimator.load(bundle, EstimatorConfig(backend=backend, threads=options.threads))
    loading = time.perf_counter() - start
    rng = np.random.default_rng(0)
    width, height = options.width, options.height
    K = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1.0]])
    camera = Camera(K, width, height, np.array(DISTORTION if options.distorted else []))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    known = estimator.bundle.objects[0]
    window = Window(0.4 * width, 0.6 * height, known.name)
    crop, box = known.crop, known.box_corners
    pixels = crop.cut(image, camera, window)[0][None]
    several = np.repeat(pixels, EstimatorConfig().views, 0)
    distance = crop.focal * known.diameter / (0.7 * crop.size)
    T = transform(exp_so3(np.array([0.5, -0.8, 0.3])), np.array([0.0, 0.0, distance]))
    corners = crop.to_window(apply(T, box), np.eye(3)) + rng.normal(size=(8, 2))
    spread = np.ones((8, 2))
    plausible = Plausible(estimator.backend, corners, spread)
    single, whole = (
        PoseEstimator(estimator.bundle, plausible, EstimatorConfig(views=views)) for views in (1, len(several))
    )
    ours, engine = lambda: estimator.backend.infer(pixels), bare(bundle, estimator.backend.name, pixels, options)
    return {
        "backend": estimator.backend.name,
        "device": estimator.backend.device,
        "precision": estimator.backend.precision,
        "load_s": round(loading, 3),
        "network_over_bare_engine": round(ratio(ours, engine, options.runs), 3) if engine else None,
        "milliseconds": {
            "crop": percentiles(lambda: crop.cut(image, camera, window), options.runs),
            "network": percentiles(ours, options.runs),
            f"network_of_{len(several)}": percentiles(lambda: estimator.backend.infer(several), options.runs),
            "pnp": percentiles(lambda: solve_pnp(box, corners, crop.K, spread), options.runs),
            "estimate": percentiles(lambda: single.estimate(image, camera, window), options.runs),
            f"estimate_of_{len(several)}_views": percentiles(
                lambda: whole.estimate(image, camera, window), options.runs
            ),
            **detection(estimator, image, camera, options.runs),
        },
    }


def detection(estimator: PoseEstimator, image: np.ndarray, camera: Camera, runs: int) -> dict[str, Any]:
    """Of the bundle's detector, if it has one."""
    if not estimator.can_detect:
        return {}
    least = estimator.config.min_detection
    return {"detect": percentiles(lambda: estimator.detector.detect(image, camera, least), runs)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--backends", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--distorted", action="store_true", help="a camera with a lens that distorts")
    options = parser.parse_args()
    results, failed = [], False
    for bundle, backend in itertools.product(options.bundles, options.backends):
        try:
            results.append({"bundle": bundle.name, **measure(bundle, backend, options)})
        except InputError as error:
            failed = True
            results.append({"bundle": bundle.name, "backend": backend, "error": str(error)})
    report = {
        "fm_pose_version": __version__,
        "hardware": hardware(system=platform.platform(), load_before=round(os.getloadavg()[0], 2)),
        "image": [options.width, options.height],
        "distorted": options.distorted,
        "runs": options.runs,
        "threads": options.threads,
        "results": results,
    }
    print(json.dumps(report, indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
