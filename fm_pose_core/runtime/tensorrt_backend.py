"""TensorRT on an NVIDIA GPU: the packages `tensorrt` (10.12 or newer) and `tensorrt_rtx`, one code path.

The network is strongly typed: each tensor's type stands in the ONNX graph, so fp16 is written into the graph first
(fp16.to_fp16). An engine is valid for one platform, one TensorRT version and the GPU architectures it was built for.

What a machine without a GPU can do: build an engine for a named compute capability, with tensorrt_rtx (tested). What
it cannot: deserialise or run one. The code for that is tested only against a stand-in for the driver and the engine.
"""

import ctypes
import logging
from types import ModuleType
from typing import Any

import numpy as np

from fm_pose_core.bundle import Bundle
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import Contract
from fm_pose_core.errors import InputError, expect
from fm_pose_core.runtime import Floats, Images, check_images

log = logging.getLogger(__name__)

USUAL_BATCH, LARGEST_BATCH = 4, 16  # windows: one with its views; four


def build_engine(
    bundle: Bundle, compute_capability: str | None = None, precision: str = "fp16", largest_batch: int = LARGEST_BATCH
) -> bytes:
    """Serialised engine of the bundle's network.

    compute_capability: of the GPU it shall run on, as "8.9"; needs tensorrt_rtx, but no GPU. None: the GPU of this
    machine. precision: fp16 or fp32. Batches of 1 to `largest_batch` windows will be possible.
    Raises InputError if no TensorRT is installed, or it cannot build this.
    """
    import onnx

    from fm_pose_core.runtime.fp16 import to_fp16

    expect(precision in ("fp16", "fp32"), "precision", "fp16 or fp32 with TensorRT", precision)
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
    if compute_capability is not None:
        _target(trt, config, compute_capability)
    shape = bundle.contract.image_shape
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, *shape), (min(USUAL_BATCH, largest_batch), *shape), (largest_batch, *shape))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        target = f"compute capability {compute_capability}" if compute_capability else "this GPU"
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
        driver: "Driver | None" = None,
    ) -> None:
        """engine, largest_batch: from build_engine. contract: the bundle's. trt, driver: stand-ins for tests."""
        trt = trt or _package()
        self._driver = driver or Driver()
        self.device, self.precision = self._driver.device_name, precision
        self._contract, self._largest = contract, largest_batch
        self._runtime = trt.Runtime(_logger(trt))  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise InputError(
                f"TensorRT engine: expected one built for {self.device} with {trt.__name__} {trt.__version__}, "
                "got one that does not deserialise; build it again on this machine"
            )
        self._context = self._engine.create_execution_context()
        expect(self._context is not None, "TensorRT engine", "an execution context", "none; is the GPU's memory full?")
        self._host: dict[str, np.ndarray] = {
            "image": np.empty((largest_batch, *contract.image_shape), contract.image_type),
            **{x.name: np.empty((largest_batch, *x.shape), np.float32) for x in contract.outputs},
        }
        self._device = {name: self._driver.allocate(array.nbytes) for name, array in self._host.items()}
        for name, address in self._device.items():
            self._context.set_tensor_address(name, address)

    def infer(self, images: Images) -> dict[str, Floats]:
        """See Backend. More windows than the engine's largest batch go through in several runs."""
        check_images(images, self._contract)
        runs = [self._run(images[i : i + self._largest]) for i in range(0, len(images), self._largest)]
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    def _run(self, images: Images) -> dict[str, Floats]:
        n = len(images)
        host, device, driver = self._host, self._device, self._driver
        names = [x.name for x in self._contract.outputs]
        driver.enter()
        host["image"][:n] = images
        self._context.set_input_shape("image", images.shape)
        driver.to_device(device["image"], host["image"][:n])
        if not self._context.execute_async_v3(driver.stream):
            raise RuntimeError("TensorRT did not start the network; see its log")
        for name in names:
            driver.to_host(host[name][:n], device[name])
        driver.wait()
        return {name: host[name][:n].copy() for name in names}


class Driver:
    """The few calls of NVIDIA's driver that moving tensors takes, in the primary context of device 0, which TensorRT
    uses as well. Comes with every GPU driver, so that neither cuda-python nor torch has to be installed."""

    def __init__(self, cuda: Any = None) -> None:
        try:
            self._cuda = cuda or ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise InputError(f"backend tensorrt: expected an NVIDIA GPU with its driver, got {error}") from None
        self._check(self._cuda.cuInit(0), "cuInit")
        device, context, stream, name = (
            ctypes.c_int(),
            ctypes.c_void_p(),
            ctypes.c_void_p(),
            ctypes.create_string_buffer(128),
        )
        self._check(self._cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
        self._check(self._cuda.cuDeviceGetName(name, 128, device), "cuDeviceGetName")
        self._check(self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        self.device_name = name.value.decode()
        self._context = context
        self.enter()
        self._check(self._cuda.cuStreamCreate(ctypes.byref(stream), 0), "cuStreamCreate")
        self.stream = int(stream.value or 0)

    def enter(self) -> None:
        """Make the context current in the calling thread."""
        self._check(self._cuda.cuCtxSetCurrent(self._context), "cuCtxSetCurrent")

    def allocate(self, size: int) -> int:
        """Address of `size` new bytes on the device; they live as long as the process."""
        address = ctypes.c_uint64()
        self._check(self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)), "cuMemAlloc")
        return int(address.value)

    def to_device(self, address: int, array: np.ndarray) -> None:
        """Enqueue a copy of a contiguous array to the device."""
        source, size, stream = (
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )
        self._check(
            self._cuda.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(address), source, size, stream), "cuMemcpyHtoDAsync"
        )

    def to_host(self, array: np.ndarray, address: int) -> None:
        """Enqueue a copy from the device into a contiguous array."""
        target, size, stream = (
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )
        self._check(
            self._cuda.cuMemcpyDtoHAsync_v2(target, ctypes.c_uint64(address), size, stream), "cuMemcpyDtoHAsync"
        )

    def wait(self) -> None:
        """Wait until all that was enqueued is done."""
        self._check(self._cuda.cuStreamSynchronize(ctypes.c_void_p(self.stream)), "cuStreamSynchronize")

    @staticmethod
    def _check(status: int, call: str) -> None:
        if status != 0:
            raise InputError(f"backend tensorrt: expected {call} to succeed, got CUDA error {status}")


def load(bundle: Bundle, config: EngineConfig) -> TensorRtBackend:
    """Build the engine for the GPU of this machine, and load it. Building takes seconds to minutes."""
    precision = "fp16" if config.precision == "auto" else config.precision
    expect(precision in ("fp16", "fp32"), "precision", "fp16, fp32 or auto with TensorRT", precision)
    driver = Driver()
    log.info("building a TensorRT engine of %s for %s", bundle.name, driver.device_name)
    return TensorRtBackend(build_engine(bundle, None, precision), bundle.contract, precision, driver=driver)


def _package() -> ModuleType:
    from importlib import import_module

    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise InputError(
        "backend tensorrt: expected the Python package tensorrt or tensorrt_rtx, got none; "
        "try: pip install tensorrt-rtx-cu13"
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


def _target(trt: Any, config: Any, compute_capability: str) -> None:
    expect(
        hasattr(config, "set_compute_capability"),
        "compute_capability",
        "tensorrt_rtx, which can build for another GPU",
        trt.__name__,
    )
    offered = {
        name[2:-1] + "." + name[-1]: value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    expect(compute_capability in offered, "compute_capability", f"one of {', '.join(offered)}", compute_capability)
    config.num_compute_capabilities = 1
    config.set_compute_capability(offered[compute_capability], 0)


def _logger(trt: Any) -> Any:
    """TensorRT wants one logger for a process."""
    global _LOGGER
    if _LOGGER is None:
        _LOGGER = trt.Logger(trt.Logger.WARNING)
    return _LOGGER


_LOGGER: Any = None
