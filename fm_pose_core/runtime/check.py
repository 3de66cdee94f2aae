"""Whether an engine answers as ONNX Runtime does, which computes in fp32, and how long it takes."""

import time
from dataclasses import dataclass

import numpy as np

from fm_pose_core.bundle import Network
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import Contract
from fm_pose_core.runtime import Backend, Images, load_backend

AGREES = 0.01  # of half a window or cube, or another output's scale: largest median difference of arithmetic alone


@dataclass(frozen=True)
class Difference:
    """Between the first outputs of two engines, in their unit (pixels of the window, or metres). relative: the median,
    in the output's scale: halves of a window or cube."""

    median: float
    largest: float
    relative: float

    @property
    def agrees(self) -> bool:
        """Whether the engine is as good as ONNX Runtime."""
        return self.relative <= AGREES


def random_windows(contract: Contract, count: int) -> Images:
    """(count, S, S, C) of random patches, of the contract's type, always the same."""
    patch = np.arange(contract.size) * 8 // contract.size
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, contract.channels), dtype=np.uint8)
    windows = coarse[:, patch][:, :, patch]
    return windows if contract.image_type is np.uint8 else (windows / 127.5 - 1.0).astype(np.float32)


def difference(backend: Backend, network: Network, windows: Images) -> Difference:
    """Of `backend` from ONNX Runtime, on (N, S, S, C) windows. Raises InputError if ONNX Runtime does not load the
    network."""
    points = network.contract.outputs[0]
    reference = load_backend(network, EngineConfig(backend="onnxruntime"))
    ours, theirs = (x.infer(windows)[points.name].astype(np.float64) for x in (backend, reference))
    off = np.abs(ours - theirs)
    median = float(np.median(off))
    return Difference(median, float(off.max()), median / points.scale)


def latency(backend: Backend, windows: Images, runs: int) -> tuple[float, float, float]:
    """Milliseconds of one call with (N, S, S, C) windows: the 50th, 95th and 99th percentile of `runs` calls."""
    for _ in range(max(3, runs // 10)):
        backend.infer(windows)
    times = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        backend.infer(windows)
        times[i] = time.perf_counter() - start
    median, high, highest = (float(x) for x in np.percentile(times * 1e3, (50, 95, 99)))
    return median, high, highest
