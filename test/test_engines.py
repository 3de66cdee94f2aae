"""TensorRT: engines are built here, but only a GPU can run them. What runs them is tested against stand-ins for the
driver and the engine (fake_gpu.py)."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_gpu import SIZE, Builder, FakeCuda, FakeTensorRt

from fm_pose_core import runtime
from fm_pose_core.cli import main
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import object_contract
from fm_pose_core.errors import EngineError, InputError
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.runtime import load_backend, tensorrt_backend
from fm_pose_core.runtime.cuda_driver import Driver

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bundle(toy_bundle: Path) -> ObjectBundle:
    return ObjectBundle.load(toy_bundle)


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
        assert not gpu.cuda.memory and gpu.cuda.held == 0
        np.testing.assert_array_equal(answer[:, 0, 0, 0], [0, 1])
    assert gpu.build.built == 1


def test_a_load_that_fails_leaves_nothing_behind(gpu: SimpleNamespace, bundle: ObjectBundle) -> None:
    """The GPU's memory is full, and a node tries again every few seconds."""
    gpu.cuda.broken = 2
    for _ in range(3):
        with pytest.raises(InputError, match="expected cuMemAlloc to succeed, got CUDA error 2"):
            tensorrt_backend.load(bundle, EngineConfig())
    assert not gpu.cuda.memory and gpu.cuda.held == 0


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
    assert not gpu.cuda.memory and gpu.cuda.held == 0


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
    assert lines == ["network", "engine", "difference", "latency", "latency", "latency", "verdict"]


def test_check_looks_at_all_networks_of_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["engine", "check", "--bundle", str(ROOT / "models" / "lmo"), "--backend", "openvino", "--runs", "1"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[1] for x in lines if x.startswith("network")] == ["network.onnx", "detector.onnx", "refiner.onnx"]
    assert sum(x.startswith("difference") for x in lines) == 3


def test_check_fails_for_an_engine_that_answers_otherwise(
    gpu: SimpleNamespace, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "check", "--bundle", str(toy_bundle), "--backend", "tensorrt", "--runs", "3"]) == 2
    assert "tensorrt, fp16: expected corners within 1% of ONNX Runtime's" in capsys.readouterr().err
