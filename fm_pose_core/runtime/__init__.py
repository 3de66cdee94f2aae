"""Inference engines behind one interface. The engines' packages load only when they are chosen."""

import logging
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.bundle import Network
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import Contract
from fm_pose_core.errors import EngineError, InputError, expect
from fm_pose_core.onnx_file import check_onnx_file

log = logging.getLogger(__name__)

_loading = Lock()  # two nodes in one process: OpenVINO's first calls at the same time may wait for each other for ever

Floats = NDArray[np.float32]
Images = NDArray[np.generic]

# Backend -> (its module here, the packages of which one must be there, what to install). The order is that of "auto".
BACKENDS = {
    "tensorrt": ("tensorrt_backend", ("tensorrt", "tensorrt_rtx"), "tensorrt-rtx-cu13 onnx"),
    "openvino": ("openvino_backend", ("openvino",), "openvino"),
    "onnxruntime": ("onnxruntime_backend", ("onnxruntime",), "onnxruntime"),
    "torch": ("torch_backend", ("torch",), "torch onnx"),
}


class Backend(Protocol):
    """A loaded network. name: of the engine. device: in words. precision: fp32, bf16 or fp16, as it is executed."""

    name: str
    device: str
    precision: str

    def infer(self, images: Images) -> dict[str, Floats]:
        """Windows (N, S, S, C), of the contract's type -> its named outputs, (N, *shape) float32 each. Raises
        InputError for other images, and EngineError if the engine fails."""
        ...


class Loaded:
    """A backend that gets only images that fit. Whatever it raises then, each engine something else, is an
    EngineError."""

    def __init__(self, backend: Backend, contract: Contract) -> None:
        self.name, self.device, self.precision = backend.name, backend.device, backend.precision
        self._infer, self._contract = backend.infer, contract

    def infer(self, images: Images) -> dict[str, Floats]:
        """See Backend."""
        check_images(images, self._contract)
        try:
            return self._infer(images)
        except Exception as error:
            told = " ".join(str(error).split())[:300]
            raise EngineError(f"{self.name} on {self.device}: {type(error).__name__}: {told}") from error


def load_backend(bundle: Network, config: EngineConfig | None = None) -> Backend:
    """Load a network of a bundle with the engine, precision and threads that `config` asks for.

    Raises InputError if the chosen engine isn't installed (naming what to install), cannot do the precision, or cannot
    load the network; "auto" takes the first engine that loads.
    """
    config = config or EngineConfig()
    if config.backend != "auto":
        return _load(config.backend, bundle, config)
    failures = []
    for name in BACKENDS:
        if not _installed(name):
            continue
        if name == "tensorrt" and not _nvidia_gpu():
            continue
        try:
            return _load(name, bundle, config)
        except (ImportError, InputError) as error:
            log.warning("backend %s: %s", name, error)
            failures.append(f"{name} ({error})")
    got = "; ".join(failures) or "none installed; try: pip install openvino"
    raise InputError(f"backend: expected one of {', '.join(BACKENDS)} to load, got {got}")


def check_contract(inputs: dict[str, tuple], outputs: dict[str, tuple], contract: Contract) -> None:
    """Raise InputError unless the network's tensors are those of the contract. By name: the numbers' type, as numpy
    calls it, and the shape's sides, None for a free one."""
    expected_inputs = {"image": (np.dtype(contract.image_type).name, None, *contract.image_shape)}
    expected_outputs = {x.name: ("float32", None, *x.shape) for x in contract.outputs}
    expect(inputs == expected_inputs, "network inputs", str(expected_inputs), inputs)
    expect(outputs == expected_outputs, "network outputs", str(expected_outputs), outputs)


def check_images(images: Images, contract: Contract) -> None:
    """Raise InputError unless `images` is (N, *contract.image_shape) of the contract's type with N >= 1."""
    shape, kind = contract.image_shape, np.dtype(contract.image_type)
    fits = images.ndim == 4 and images.shape[0] > 0 and images.shape[1:] == shape and images.dtype == kind
    if not fits:  # the words take longer than the comparison
        expect(False, "images", f"{kind} (N, {', '.join(map(str, shape))})", f"{images.dtype} {images.shape}")


def _load(name: str, bundle: Network, config: EngineConfig) -> Backend:
    module, packages, install = BACKENDS[name]
    wanted = f"the Python package {' or '.join(packages)}"
    expect(_installed(name), f"backend {name}", wanted, f"none installed; try: pip install {install}")
    check_onnx_file(bundle.network_path)
    with _loading:
        backend = Loaded(import_module(f"fm_pose_core.runtime.{module}").load(bundle, config), bundle.contract)
        # So that the first image is as quick as the others, and a network that cannot be executed is known now.
        try:
            for count in sorted({1, config.views}):
                backend.infer(np.zeros((count, *bundle.contract.image_shape), bundle.contract.image_type))
        except EngineError as error:
            raise InputError(f"{bundle.network_path}: expected a network that {name} executes, got {error}") from None
    return backend


def _installed(name: str) -> bool:
    return any(find_spec(package) is not None for package in BACKENDS[name][1])


def _nvidia_gpu() -> bool:
    """Whether NVIDIA's driver is there and sees a device; asks the driver itself, without any package."""
    import ctypes

    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
