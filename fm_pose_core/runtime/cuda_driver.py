"""NVIDIA's driver, called directly: it comes with every GPU, so that neither cuda-python nor torch has to be
installed."""

import ctypes
import math
from typing import Any

import numpy as np

from fm_pose_core.errors import InputError

COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76  # CUdevice_attribute


class Driver:
    """The few calls of NVIDIA's driver that moving tensors takes, in the primary context of device 0, which TensorRT
    uses as well. device_name: as NVIDIA calls it. architecture: such as "sm_89"."""

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
        self._context, self._device = context, device
        self.enter()
        self._check(self._cuda.cuStreamCreate(ctypes.byref(stream), 0), "cuStreamCreate")
        self.stream = int(stream.value or 0)
        self._device_memory: list[int] = []
        self._host_memory: list[int] = []
        major, minor = (self._attribute(device, which) for which in (COMPUTE_MAJOR, COMPUTE_MINOR))
        self.architecture = f"sm_{major}{minor}"

    def enter(self) -> None:
        """Make the context current in the calling thread."""
        self._check(self._cuda.cuCtxSetCurrent(self._context), "cuCtxSetCurrent")

    def allocate(self, size: int) -> int:
        """Address of `size` new bytes on the device, until `close`."""
        address = ctypes.c_uint64()
        self._check(self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)), "cuMemAlloc")
        self._device_memory.append(int(address.value))
        return int(address.value)

    def pinned(self, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
        """An array in memory that the device reads and writes by itself, so that copies take no detour; until
        `close`."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        address = ctypes.c_void_p()
        self._check(self._cuda.cuMemAllocHost_v2(ctypes.byref(address), ctypes.c_size_t(size)), "cuMemAllocHost")
        self._host_memory.append(address.value or 0)
        memory = (ctypes.c_char * size).from_address(address.value or 0)
        array: np.ndarray = np.frombuffer(memory, np.uint8).view(kind).reshape(shape)  # type: ignore[call-overload]
        return array

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

    def close(self) -> None:
        """Give back the memory, the stream and the context, as far as a device that may be broken takes them."""
        cuda = self._cuda
        cuda.cuCtxSetCurrent(self._context)
        cuda.cuStreamSynchronize(ctypes.c_void_p(self.stream))
        for address in self._device_memory:
            cuda.cuMemFree_v2(ctypes.c_uint64(address))
        for address in self._host_memory:
            cuda.cuMemFreeHost(ctypes.c_void_p(address))
        cuda.cuStreamDestroy_v2(ctypes.c_void_p(self.stream))
        cuda.cuDevicePrimaryCtxRelease_v2(self._device)
        self._device_memory.clear()
        self._host_memory.clear()

    def _attribute(self, device: ctypes.c_int, which: int) -> int:
        value = ctypes.c_int()
        self._check(self._cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device), "cuDeviceGetAttribute")
        return value.value

    @staticmethod
    def _check(status: int, call: str) -> None:
        if status != 0:
            raise InputError(f"backend tensorrt: expected {call} to succeed, got CUDA error {status}")
