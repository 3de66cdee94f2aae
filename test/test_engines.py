"""TensorRT: engines are built here and kept, but only a GPU can run them. What runs them is tested against a stand-in
for the driver and the engine."""

import ctypes
import gc
import logging
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fm_pose_core import runtime
from fm_pose_core.cli import main
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import object_contract
from fm_pose_core.errors import EngineError, InputError
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.runtime import load_backend, tensorrt_backend
from fm_pose_core.runtime.cuda_driver import Driver
from fm_pose_core.runtime.engine_cache import Fingerprint, cache_folder, engines, read_engine, write_engine

SIZE = 128
KEY = Fingerprint("ab" * 32, 1, "tensorrt_fake", "1.0", "sm_89", "fp16", 16)


@pytest.fixture
def bundle(toy_bundle: Path) -> ObjectBundle:
    return ObjectBundle.load(toy_bundle)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "fm_pose_core")
    return caplog


class Builder:
    """Builds b"engine 1", b"engine 2", …"""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, *_: object) -> bytes:
        self.built += 1
        return b"engine %d" % self.built


# Engines are kept


def test_an_engine_is_built_once_and_kept_for_its_user_alone(tmp_path: Path) -> None:
    build, folder = Builder(), tmp_path / "cache" / "engines"
    assert next(engines(KEY, build, folder)) == next(engines(KEY, build, folder)) == b"engine 1"
    assert build.built == 1
    (file,) = folder.iterdir()
    assert file.name.startswith("sm_89_fp16_") and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"network": "cd" * 32},
        {"conversion": 2},
        {"package": "tensorrt"},
        {"version": "1.1"},
        {"architecture": "sm_86"},
        {"precision": "fp32"},
        {"largest_batch": 4},
        {"machine": "aarch64x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_engine_for_something_else_is_not_taken(change: dict[str, Any], tmp_path: Path) -> None:
    write_engine(tmp_path, KEY, b"engine")
    other = replace(KEY, **change)
    assert read_engine(tmp_path, KEY) == b"engine" and read_engine(tmp_path, other) is None
    (tmp_path / KEY.file_name).rename(tmp_path / other.file_name)  # as if somebody had tried
    with pytest.raises(InputError, match=r"\.engine: expected the fingerprint in its name, got "):
        read_engine(tmp_path, other)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-3],
    "empty": lambda data: b"",
    "one bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another file": lambda data: b"GIF89a" + data,
    "another fingerprint": lambda data: data.replace(b"sm_89", b"sm_86"),
    "another checksum": lambda data: data[:-74] + data[-74:].replace(b"a", b"b").replace(b"0", b"1"),
    "cut in its head": lambda data: data[:30],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_engine_is_built_again_with_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    next(engines(KEY, build, tmp_path))
    file = tmp_path / KEY.file_name
    file.write_bytes(damage(file.read_bytes()))
    told.clear()
    assert next(engines(KEY, build, tmp_path)) == b"engine 2"
    (line,) = (x.getMessage() for x in told.records if x.levelno >= logging.WARNING)
    assert line.startswith(f"{file}: expected ") and line.endswith("; the engine is built again")
    assert next(engines(KEY, build, tmp_path)) == b"engine 2"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_others_may_write_is_not_trusted(what: str, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    build = Builder()
    next(engines(KEY, build, tmp_path))
    (tmp_path if what == "folder" else tmp_path / KEY.file_name).chmod(0o777)
    assert next(engines(KEY, build, tmp_path)) == b"engine 2"
    assert "expected one that only its owner may write" in told.text
    assert ("used, but not kept" in told.text) == (what == "folder")


def test_an_engine_that_cannot_be_kept_is_used(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    assert next(engines(KEY, Builder(), tmp_path / "file" / "engines")) == b"engine 1"
    assert "the engine is used, but not kept" in told.text


def test_the_cache_is_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/fm_pose/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard wants such to be ignored
    assert cache_folder() == Path.home() / ".cache/fm_pose/engines"


# Engines are built


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_tensorrt_builds_an_engine_without_a_gpu(
    precision: str,
    toy_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt_backend, "REPORT_PERIOD", 0.0)
    command = ["engine", "build", "--bundle", str(toy_bundle), "--precision", precision, "--arch"]
    assert main([*command, "sm_89"]) == 0
    (file,) = (tmp_path / "fm_pose" / "engines").iterdir()
    assert file.name.startswith(f"sm_89_{precision}_") and file.stat().st_size > 1000
    assert capsys.readouterr().out.startswith(f"{file}: built, 1.0 MB, tensorrt_rtx ")
    before = file.stat().st_mtime_ns
    assert main([*command, "sm_89"]) == 0
    assert file.stat().st_mtime_ns == before and "is there already" in capsys.readouterr().out
    file.write_bytes(b"damaged")
    assert main([*command, "sm_89"]) == 0 and file.stat().st_size > 1000
    assert "it is built again" in capsys.readouterr().err
    file.parent.chmod(0o775)
    assert main([*command, "sm_89"]) == 2  # what is not kept is not built
    assert "only its owner may write" in capsys.readouterr().err
    assert main([*command, "sm_30"]) == 2
    assert "arch: expected one of sm_75" in capsys.readouterr().err


def test_a_build_tells_how_far_it_is(
    bundle: ObjectBundle, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    monkeypatch.setattr(tensorrt_backend, "REPORT_PERIOD", 0.0)
    tensorrt_backend.build_engine(bundle, "sm_89")
    assert any("TensorRT: optimizing graph, step 1 of " in x.getMessage() for x in told.records)


def test_tensorrt_does_not_do_bf16(bundle: ObjectBundle) -> None:
    with pytest.raises(InputError, match="precision: expected fp16 or fp32"):
        tensorrt_backend.build_engine(bundle, "sm_89", "bf16")


# Engines run


class FakeCuda:
    """NVIDIA's driver with the host's memory for the device's. It counts what it has given away. broken: the status of
    every call that waits or allocates."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams = self.contexts = self.broken = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Fake GPU"
        return 0

    def cuStreamCreate(self, stream: Any, flags: int) -> int:
        self.streams += 1
        return 0

    def cuStreamDestroy_v2(self, stream: Any) -> int:
        self.streams -= 1
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        self.contexts += 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:
        self.contexts -= 1
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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A machine with the stand-ins. cuda; build; refuse: to make TensorRT refuse engines."""
    machine = SimpleNamespace(cuda=FakeCuda(), build=Builder())
    machine.refuse = lambda *refused: machine.use(FakeTensorRt(*refused))
    machine.use = lambda package: monkeypatch.setattr(tensorrt_backend, "_package", lambda: package)
    machine.refuse()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt_backend, "Driver", lambda: Driver(machine.cuda))
    monkeypatch.setattr(tensorrt_backend, "build_engine", machine.build)
    yield machine


def windows_of(count: int, size: int) -> np.ndarray:
    """Window number i has the colour i."""
    return np.repeat(np.arange(count, dtype=np.uint8), size * size * 3).reshape(count, size, size, 3)


def test_tensorrt_moves_tensors_and_splits_large_batches() -> None:
    driver = Driver(FakeCuda())
    backend = tensorrt_backend.TensorRtBackend(
        b"engine", object_contract(SIZE), "fp16", largest_batch=2, trt=FakeTensorRt(), driver=driver
    )
    assert (backend.name, backend.device, backend.precision) == ("tensorrt", "Fake GPU", "fp16")
    assert driver.architecture == "sm_89"
    for result in (backend.infer(windows_of(5, SIZE))[name] for name in ("corners", "spread")):
        assert result.shape == (5, 1, 8, 2) and result.dtype == np.float32
        np.testing.assert_array_equal(result[:, 0, 0, 0], np.arange(5))


def test_a_backend_that_goes_gives_its_memory_back(gpu: SimpleNamespace, bundle: ObjectBundle) -> None:
    for _ in range(3):  # a node that is cleaned up and configured again
        backend = tensorrt_backend.load(bundle, EngineConfig())
        assert len(gpu.cuda.memory) == 2 * 3  # image, corners, spread: here and there
        answer = backend.infer(windows_of(2, bundle.contract.size))["corners"]
        del backend
        gc.collect()
        assert not gpu.cuda.memory and gpu.cuda.streams == gpu.cuda.contexts == 0
        np.testing.assert_array_equal(answer[:, 0, 0, 0], [0, 1])
    assert gpu.build.built == 1


def test_a_load_that_fails_leaves_nothing_behind(gpu: SimpleNamespace, bundle: ObjectBundle) -> None:
    """The GPU's memory is full, and a node tries again every few seconds."""
    gpu.cuda.broken = 2
    for _ in range(3):
        with pytest.raises(InputError, match="expected cuMemAlloc to succeed, got CUDA error 2"):
            tensorrt_backend.load(bundle, EngineConfig())
    assert not gpu.cuda.memory and gpu.cuda.streams == gpu.cuda.contexts == 0


def test_a_gpu_that_fails_is_no_bad_input(
    gpu: SimpleNamespace, bundle: ObjectBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_installed", lambda name: True)
    backend = load_backend(bundle, EngineConfig(backend="tensorrt"))
    images = windows_of(1, SIZE)
    with pytest.raises(InputError, match="images: expected"):
        backend.infer(images[0])
    gpu.cuda.broken = 700
    with pytest.raises(
        EngineError, match=r"tensorrt on Fake GPU: .* cuStreamSynchronize to succeed, got CUDA error 700"
    ):
        backend.infer(images)
    del backend
    gc.collect()
    assert not gpu.cuda.memory and gpu.cuda.streams == gpu.cuda.contexts == 0


def test_an_engine_with_another_contract_is_refused(gpu: SimpleNamespace, bundle: ObjectBundle) -> None:
    """It would write beyond its buffers."""
    gpu.use(FakeTensorRt(objects=2))
    with pytest.raises(InputError, match="network outputs: expected "):
        tensorrt_backend.load(bundle, EngineConfig())


def test_an_engine_that_does_not_load_is_built_again(
    gpu: SimpleNamespace, bundle: ObjectBundle, told: pytest.LogCaptureFixture
) -> None:
    """As after an update of the driver, of which no fingerprint tells."""
    tensorrt_backend.load(bundle, EngineConfig())
    gpu.refuse(b"engine 1")
    tensorrt_backend.load(bundle, EngineConfig())
    assert gpu.build.built == 2 and "it cannot be used here; it is built again" in told.text
    tensorrt_backend.load(bundle, EngineConfig())
    assert gpu.build.built == 2
    gpu.refuse(b"engine 2", b"engine 3")
    with pytest.raises(InputError, match=r"expected one built for Fake GPU with tensorrt_fake 1\.0, .* build it again"):
        tensorrt_backend.load(bundle, EngineConfig())


def test_the_cache_may_go_while_its_engine_runs(gpu: SimpleNamespace, bundle: ObjectBundle, tmp_path: Path) -> None:
    import shutil

    backend = tensorrt_backend.load(bundle, EngineConfig())
    shutil.rmtree(tmp_path / "fm_pose")
    images = windows_of(3, bundle.contract.size)
    np.testing.assert_array_equal(backend.infer(images)["corners"][:, 0, 0, 0], [0, 1, 2])
    tensorrt_backend.load(bundle, EngineConfig())
    assert gpu.build.built == 2 and len(list((tmp_path / "fm_pose" / "engines").iterdir())) == 1


def test_tensorrt_without_a_gpu_says_so(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime._nvidia_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="expected an NVIDIA GPU"):
        Driver()
    assert main(["engine", "build", "--bundle", str(toy_bundle)]) == 2
    assert "; --arch builds for the GPU of another machine" in capsys.readouterr().err


# Engines are checked


def test_check_prints_difference_and_latency(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "check", "--bundle", str(toy_bundle), "--backend", "openvino", "--runs", "3"]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["engine", "difference", "latency", "latency", "latency", "verdict"]


def test_check_fails_for_an_engine_that_answers_otherwise(
    gpu: SimpleNamespace, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "check", "--bundle", str(toy_bundle), "--backend", "tensorrt", "--runs", "3"]) == 2
    assert "tensorrt, fp16: expected points within 1% of half the window" in capsys.readouterr().err
