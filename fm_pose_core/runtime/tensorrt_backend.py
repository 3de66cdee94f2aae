"""TensorRT on an NVIDIA GPU: the packages `tensorrt` (10.12 or newer) and `tensorrt_rtx`, one code path.

The network is strongly typed: each tensor's type stands in the ONNX graph, so fp16 is written into the graph first
(fp16.to_fp16). An engine is valid for one platform, one TensorRT version and the GPU architectures it was built for.

What a machine without a GPU can do: build an engine for a named architecture, with tensorrt_rtx (tested). What it
cannot: deserialise or run one. The code for that is tested only against a stand-in for the driver and the engine.
"""

import logging
import time
import weakref
from types import ModuleType
from typing import Any

import numpy as np

from fm_pose_core.bundle import Network
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import Contract
from fm_pose_core.errors import InputError, expect
from fm_pose_core.onnx_file import check_onnx_file
from fm_pose_core.runtime import Floats, Images, check_contract
from fm_pose_core.runtime.cuda_driver import Driver
from fm_pose_core.runtime.engine_cache import Fingerprint, engines

log = logging.getLogger(__name__)

USUAL_BATCH, LARGEST_BATCH = 4, 16  # windows: one with its views; four
CONVERSION = 1  # to be raised when what TensorRT gets of the same network changes
REPORT_PERIOD = 5.0  # seconds between two lines about a build


class EngineRefusedError(InputError):
    """TensorRT does not load an engine."""


def build_engine(
    bundle: Network, architecture: str | None = None, precision: str = "fp16", largest_batch: int = LARGEST_BATCH
) -> bytes:
    """Serialised engine of the bundle's network. How far it is goes into the log.

    architecture: of the GPU it shall run on, as "sm_89"; needs tensorrt_rtx, but no GPU. None: the GPU of this machine.
    precision: fp16 or fp32. Batches of 1 to `largest_batch` windows will be possible.
    Raises InputError if no TensorRT is installed, or it cannot build this.
    """
    import onnx

    from fm_pose_core.runtime.fp16 import to_fp16

    expect(precision in ("fp16", "fp32"), "precision", "fp16 or fp32 with TensorRT", precision)
    check_onnx_file(bundle.network_path)
    trt = _package()
    model = _cast_first(onnx.load(str(bundle.network_path)))
    if precision == "fp16":
        model = to_fp16(model)

    builder = trt.Builder(_logger(trt))
    # The only kind there is from version 11 on.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(typed) if typed is not None else 0)
    parser = trt.OnnxParser(network, _logger(trt))
    if not parser.parse(model.SerializeToString()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise InputError(f"{bundle.network_path}: expected a network that TensorRT parses, got {errors}")
    config = builder.create_builder_config()
    if architecture is not None:
        _target(trt, config, architecture)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _progress(trt)
    shape = bundle.contract.image_shape
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, *shape), (min(USUAL_BATCH, largest_batch), *shape), (largest_batch, *shape))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        target = architecture or "this GPU"
        raise InputError(f"{bundle.network_path}: expected an engine for {target}, got none; see TensorRT's log")
    return bytes(engine)


class TensorRtBackend:
    """A deserialised engine with its device buffers. Needs a GPU."""

    name = "tensorrt"

    def __init__(
        self,
        engine: bytes,
        contract: Contract,
        precision: str,
        largest_batch: int = LARGEST_BATCH,
        *,
        trt: Any = None,
        driver: Driver | None = None,
    ) -> None:
        """engine, largest_batch: from build_engine. contract: the bundle's. trt, driver: stand-ins for tests."""
        trt = trt or _package()
        self._driver = driver or Driver()
        self.device, self.precision = self._driver.device_name, precision
        self._contract, self._largest = contract, largest_batch
        self._runtime = trt.Runtime(_logger(trt))  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise EngineRefusedError(
                f"TensorRT engine: expected one built for {self.device} with {trt.__name__} {trt.__version__}, "
                "got one that does not deserialise; build it again on this machine"
            )
        check_contract(*_tensors(trt, self._engine), contract)
        self._context = self._engine.create_execution_context()
        expect(self._context is not None, "TensorRT engine", "an execution context", "none; is the GPU's memory full?")
        pinned = self._driver.pinned
        self._host: dict[str, np.ndarray] = {
            "image": pinned((largest_batch, *contract.image_shape), contract.image_type),
            **{x.name: pinned((largest_batch, *x.shape), np.float32) for x in contract.outputs},
        }
        self._device = {name: self._driver.allocate(array.nbytes) for name, array in self._host.items()}
        for name, address in self._device.items():
            self._context.set_tensor_address(name, address)

    def infer(self, images: Images) -> dict[str, Floats]:
        """See Backend. More windows than the engine's largest batch go through in several runs."""
        runs = [self._run(images[i : i + self._largest]) for i in range(0, len(images), self._largest)]
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    def _run(self, images: Images) -> dict[str, Floats]:
        n = len(images)
        host, device, driver = self._host, self._device, self._driver
        names = [x.name for x in self._contract.outputs]
        driver.enter()
        host["image"][:n] = images
        if not self._context.set_input_shape("image", images.shape):
            raise RuntimeError(f"TensorRT did not take images of the shape {images.shape}; see its log")
        driver.to_device(device["image"], host["image"][:n])
        if not self._context.execute_async_v3(driver.stream):
            raise RuntimeError("TensorRT did not start the network; see its log")
        for name in names:
            driver.to_host(host[name][:n], device[name])
        driver.wait()
        return {name: host[name][:n].copy() for name in names}


def fingerprint(
    bundle: Network, architecture: str, precision: str = "fp16", largest_batch: int = LARGEST_BATCH
) -> Fingerprint:
    """Of the engine that `build_engine` makes with the TensorRT that is installed. Raises InputError if none is."""
    trt = _package()
    digest = bundle.network.sha256
    return Fingerprint(digest, CONVERSION, trt.__name__, trt.__version__, architecture, precision, largest_batch)


def load(bundle: Network, config: EngineConfig) -> TensorRtBackend:
    """The engine for the GPU of this machine: the one that is kept from an earlier time, or one that is built now, in
    seconds to minutes."""
    precision = "fp16" if config.precision == "auto" else config.precision
    expect(precision in ("fp16", "fp32"), "precision", "fp16, fp32 or auto with TensorRT", precision)
    driver = Driver()
    try:
        backend = _load(bundle, precision, driver)
    except BaseException:
        driver.close()
        raise
    # A node that is cleaned up and configured again and again must not collect memory. At the end of the process the
    # driver itself frees all.
    weakref.finalize(backend, driver.close).atexit = False
    return backend


def _load(bundle: Network, precision: str, driver: Driver) -> TensorRtBackend:
    refused: EngineRefusedError | None = None
    key = fingerprint(bundle, driver.architecture, precision)
    for engine in engines(key, lambda: build_engine(bundle, None, precision)):
        try:
            return TensorRtBackend(engine, bundle.contract, precision, driver=driver)
        except EngineRefusedError as error:
            refused = error
    raise refused or AssertionError("there is always an engine")


def _tensors(trt: Any, engine: Any) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Inputs and outputs as `check_contract` takes them."""
    tensors: tuple[dict[str, tuple], dict[str, tuple]] = {}, {}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        sides = (None if side < 0 else int(side) for side in engine.get_tensor_shape(name))
        tensors[engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT][name] = (kind, *sides)
    return tensors


def _package() -> ModuleType:
    from importlib import import_module

    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise InputError(
        "backend tensorrt: expected the Python package tensorrt or tensorrt_rtx, got none; "
        "try: pip install tensorrt-rtx-cu13 onnx"
    )


def _cast_first(model: Any) -> Any:
    """Let the uint8 image be cast to float at once: TensorRT does nothing else with uint8, not even a transposition."""
    from onnx import TensorProto, helper

    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "image":
                node.input[i] = "image_float"
    model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT))
    del model.graph.value_info[:]  # the types that followed from uint8
    return model


def _target(trt: Any, config: Any, architecture: str) -> None:
    here = "none, which means the GPU of this machine"
    expect(
        hasattr(config, "set_compute_capability"), "arch", f"{here}; {trt.__name__} builds for no other", architecture
    )
    members = trt.ComputeCapability.__members__
    offered = {f"sm_{name[2:]}": value for name, value in members.items() if name.startswith("SM")}
    expect(architecture in offered, "arch", f"one of {', '.join(offered)}", architecture)
    config.num_compute_capabilities = 1
    config.set_compute_capability(offered[architecture], 0)


def _progress(trt: Any) -> Any:
    """What TensorRT tells of a build that takes long."""

    class Progress(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}
            self._told = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if time.monotonic() - self._told >= REPORT_PERIOD:
                self._told = time.monotonic()
                log.info("TensorRT: %s, step %d of %d", phase.lower(), step + 1, self._steps.get(phase, 0))
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            pass

    return Progress()


def _logger(trt: Any) -> Any:
    """TensorRT wants one logger for a process."""
    global _LOGGER
    if _LOGGER is None:
        _LOGGER = trt.Logger(trt.Logger.WARNING)
    return _LOGGER


_LOGGER: Any = None
