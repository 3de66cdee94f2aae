"""Stand-ins for what only a GPU has: NVIDIA's driver, TensorRT's runtime and its engines."""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

SIZE = 128  # of a window
HOLDS = {
    "cuStreamCreate": 1,
    "cuStreamDestroy_v2": -1,
    "cuDevicePrimaryCtxRetain": 1,
    "cuDevicePrimaryCtxRelease_v2": -1,
}


class Builder:
    """Builds b"engine 1", b"engine 2", …"""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, *_: object) -> bytes:
        self.built += 1
        return b"engine %d" % self.built


class FakeCuda:
    """NVIDIA's driver with the host's memory for the device's. memory: what it has given away, by address. held:
    how many streams and contexts. broken: the status of every call that waits or allocates."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.held = self.broken = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.held += HOLDS.get(name, 0)
            return 0

        return call

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Fake GPU"
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:
        return self.broken

    def cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 9}[which]
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        if self.broken:
            return self.broken
        return self.cuMemAllocHost_v2(address, size)

    def cuMemAllocHost_v2(self, address: Any, size: Any) -> int:
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.memory[ctypes.addressof(block)] = block
        return 0

    def cuMemFree_v2(self, address: Any) -> int:
        del self.memory[address.value]
        return 0

    cuMemFreeHost = cuMemFree_v2

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    cuMemcpyDtoHAsync_v2 = cuMemcpyHtoDAsync_v2


class FakeTensorRt:
    """An engine that answers with the mean colour of each window, and none from bytes that do not begin with "engine".
    refused: engines that it does not take either."""

    __name__, __version__ = "tensorrt_fake", "1.0"
    TensorIOMode = SimpleNamespace(INPUT=1, OUTPUT=2)

    def __init__(self, *refused: bytes, objects: int = 1) -> None:
        tensors = {"image": ("uint8", (-1, SIZE, SIZE, 3))}
        tensors |= {name: ("float32", (-1, objects, 8, 2)) for name in ("corners", "spread")}
        context = SimpleNamespace(addresses={}, shape=())

        def execute_async_v3(stream: int) -> bool:
            at, (n, *rest) = context.addresses, context.shape
            image = np.ctypeslib.as_array(
                (ctypes.c_uint8 * int(np.prod(context.shape))).from_address(at["image"])
            ).reshape(n, *rest)
            for name, value in (("corners", image.mean((1, 2, 3))), ("spread", image[:, 0, 0, 0])):
                np.ctypeslib.as_array((ctypes.c_float * (n * 16)).from_address(at[name])).reshape(n, 16)[:] = value[
                    :, None
                ]
            return True

        def deserialize(data: bytes) -> Any:
            good = data.startswith(b"engine") and data not in refused
            return (
                SimpleNamespace(
                    create_execution_context=lambda: context,
                    num_io_tensors=len(tensors),
                    get_tensor_name=list(tensors).__getitem__,
                    get_tensor_dtype=lambda name: tensors[name][0],
                    get_tensor_shape=lambda name: tensors[name][1],
                    get_tensor_mode=lambda name: 1 if name == "image" else 2,
                )
                if good
                else None
            )

        context.set_tensor_address = context.addresses.__setitem__
        context.set_input_shape = lambda name, shape: setattr(context, "shape", shape) or True
        context.execute_async_v3 = execute_async_v3
        self.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize)
        self.nptype = np.dtype
        self.Logger = lambda level: None
        self.Logger.WARNING = 1  # type: ignore[attr-defined]
