import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_bundle as toy
from voting_network import voting_network

from fm_pose_core import runtime
from fm_pose_core.bundle import NetworkFile, network_file
from fm_pose_core.config import EstimatorConfig
from fm_pose_core.contract import object_contract
from fm_pose_core.errors import InputError
from fm_pose_core.hands.bundle import HandBundle
from fm_pose_core.hands.crop import HandCrop, HandCropConfig
from fm_pose_core.hands.frames import read_frames
from fm_pose_core.hands.locate import annotated_hand
from fm_pose_core.hands.solver import HandSolver
from fm_pose_core.objects.bundle import ObjectBundle, ObjectInBundle, write_object_bundle
from fm_pose_core.runtime import Backend, Images, load_backend
from fm_pose_core.runtime.check import difference, latency, random_windows
from fm_pose_core.runtime.fp16 import to_fp16
from fm_pose_core.runtime.tensorrt_backend import build_engine

SIZE = 128
ROOT = Path(__file__).resolve().parents[1]


def make_bundle(path: Path, network: bytes, architecture: dict | None = None) -> ObjectBundle:
    file = NetworkFile(network, architecture or {"name": "test"}, object_contract(SIZE))
    thing = ObjectInBundle("thing", 1, toy.MINIMUM, toy.MAXIMUM, toy.DIAMETER, toy.CROP.focal)
    return write_object_bundle(path, file, [thing])


@pytest.fixture(scope="module")
def voting(tmp_path_factory: pytest.TempPathFactory) -> ObjectBundle:
    return make_bundle(tmp_path_factory.mktemp("voting") / "b", voting_network().SerializeToString())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(3, S, S, 3): smooth random colours, as a photograph has."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    return np.stack([cv2.resize(c, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for c in coarse])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.01), ("bf16", 0.5)])
def test_openvino_agrees_with_onnxruntime(
    voting: ObjectBundle, images: np.ndarray, precision: str, tolerance: float
) -> None:
    reference = load_backend(voting, EstimatorConfig(backend="onnxruntime", threads=1))
    try:
        backend = load_backend(voting, EstimatorConfig(backend="openvino", precision=precision, threads=1))
    except InputError as error:
        pytest.skip(f"this processor: {error}")
    assert (backend.name, backend.precision, reference.precision) == ("openvino", precision, "fp32")
    assert backend.device and reference.device
    for n in (1, 3, 2):  # the batch may change from call to call
        ours, theirs = backend.infer(images[:n]), reference.infer(images[:n])
        assert list(ours) == list(theirs) == ["corners", "spread"]
        for name, values in ours.items():
            assert values.shape == (n, 1, 8, 2) and values.dtype == np.float32
            assert np.abs(values - theirs[name]).max() < tolerance


def test_openvino_does_not_trust_a_broken_precision(images: np.ndarray, tmp_path: Path) -> None:
    """OpenVINO 2026.4 computes a convolution of this network wrongly in bf16 on AMX: 14 px off."""
    bundle = make_bundle(tmp_path / "b", voting_network(width=16).SerializeToString())
    reference = load_backend(bundle, EstimatorConfig(backend="onnxruntime", threads=1)).infer(images)["corners"]
    corners = load_backend(bundle, EstimatorConfig(backend="openvino", threads=1)).infer(images)["corners"]
    assert np.median(np.abs(corners - reference)) < 0.5


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_batch_is_the_same_as_its_windows(voting: ObjectBundle, images: np.ndarray, name: str) -> None:
    backend = load_backend(voting, EstimatorConfig(backend=name, precision="fp32"))
    together = backend.infer(images)["corners"].copy()
    alone = np.concatenate([backend.infer(images[i : i + 1])["corners"] for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert np.abs(together[0] - together[1]).max() > 0.1  # the network looks at the image


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_results_outlive_the_next_call(voting: ObjectBundle, images: np.ndarray, name: str) -> None:
    backend = load_backend(voting, EstimatorConfig(backend=name))
    first = backend.infer(images[:1])
    before = {k: v.copy() for k, v in first.items()}
    backend.infer(images[1:2])
    for k, v in first.items():
        np.testing.assert_array_equal(v, before[k])


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_images_may_lie_in_memory_as_they_like(voting: ObjectBundle, images: np.ndarray, name: str) -> None:
    backend = load_backend(voting, EstimatorConfig(backend=name))
    expected = backend.infer(images)["corners"]
    sealed, spread_out = images.copy(), np.repeat(images, 2, 0)[::2]
    sealed.flags.writeable = False
    for other in (sealed, spread_out, np.asfortranarray(images)):
        np.testing.assert_allclose(backend.infer(other)["corners"], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bad", [(1, 64, 64, 3), (0, 128, 128, 3), (128, 128, 3)])
def test_images_that_do_not_fit_are_refused(voting: ObjectBundle, name: str, bad: tuple) -> None:
    backend = load_backend(voting, EstimatorConfig(backend=name))
    with pytest.raises(InputError, match=r"images: expected uint8 \(N, 128, 128, 3\)"):
        backend.infer(np.zeros(bad, np.uint8))
    with pytest.raises(InputError, match="float32"):
        backend.infer(np.zeros((1, 128, 128, 3), np.float32))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, name: str) -> None:
    whole = voting_network().SerializeToString()
    for i, content in enumerate((b"no network", whole[: len(whole) // 2])):
        bundle = make_bundle(tmp_path / str(i), content)
        with pytest.raises(InputError, match=r"network\.onnx: expected a network"):
            load_backend(bundle, EstimatorConfig(backend=name))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_network_that_loops_is_refused(tmp_path: Path, name: str) -> None:
    """It may loop for ever, and an engine cannot be stopped."""
    from onnx import TensorProto, checker, helper, numpy_helper

    model = voting_network()
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["on"]), helper.make_node("Identity", ["before"], ["after"])],
        "body",
        [value("k", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []), value("before", 1, None)],
        [value("on", TensorProto.BOOL, []), value("after", 1, None)],
    )
    many, always = (
        numpy_helper.from_array(np.asarray(x), n) for x, n in ((np.int64(2**62), "many"), (np.bool_(True), "always"))
    )
    model.graph.initializer.extend([many, always])
    model.graph.node[-1].output[0] = "first_spread"
    model.graph.node.append(helper.make_node("Loop", ["many", "always", "first_spread"], ["spread"], body=body))
    checker.check_model(model)
    bundle = make_bundle(tmp_path / "b", model.SerializeToString())
    with pytest.raises(InputError, match=r"network\.onnx: expected a network in one file, .* got loops or branches"):
        load_backend(bundle, EstimatorConfig(backend=name))
    # Readers of protobuf skip a group that they don't know, here one of number 1000 without content.
    bundle = make_bundle(tmp_path / "group", model.SerializeToString() + b"\xc3\x3e\xc4\x3e")
    with pytest.raises(InputError, match=r"network\.onnx: expected a network in an ONNX file"):
        load_backend(bundle, EstimatorConfig(backend=name))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_a_network_whose_weights_are_in_other_files_is_refused(tmp_path: Path, where: str, name: str) -> None:
    """No checksum covers these files; and protobuf may write one and the same field in several ways."""
    from onnx import TensorProto, helper

    (tmp_path / "secret").write_bytes(np.zeros(4, np.float32).tobytes())
    weights = TensorProto(data_type=TensorProto.FLOAT, dims=[4], name="w", data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../secret")
    model = voting_network()
    if where == "initializer":
        model.graph.initializer.append(weights)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["w"], value=weights))
    plain = model.SerializeToString()
    overlong = plain.replace(b"\x0a\x08location\x12\x09../secret", b"\x0a\x88\x00location\x12\x08../secre")
    assert overlong != plain and len(overlong) == len(plain)
    for content in (plain, overlong):
        bundle = make_bundle(tmp_path / "b", content)
        with pytest.raises(InputError, match=r"network\.onnx: expected a network in one file, .* got weights in other"):
            load_backend(bundle, EstimatorConfig(backend=name))
        with pytest.raises(InputError, match="got weights in other files"):
            network_file(bundle.path)
        with pytest.raises(InputError, match="got weights in other files"):
            build_engine(bundle, "sm_89", "fp32")


def test_a_network_of_foreign_operators_is_refused(tmp_path: Path) -> None:
    """Some of them read files."""
    model = voting_network()
    model.graph.node[0].domain = "com.microsoft"
    bundle = make_bundle(tmp_path / "b", model.SerializeToString())
    with pytest.raises(InputError, match=r"got operators of 'com\.microsoft'"):
        load_backend(bundle, EstimatorConfig(backend="onnxruntime"))


def test_networks_load_one_after_the_other(voting: ObjectBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes in one process load at the same time, and OpenVINO's first calls may wait for each other for ever."""
    from fm_pose_core.runtime import openvino_backend

    loading: list[str] = []
    together: list[int] = []
    load = openvino_backend.load

    def watched(bundle: ObjectBundle, config: EstimatorConfig) -> Backend:
        loading.append(bundle.name)
        together.append(len(loading))
        time.sleep(0.02)
        backend = load(bundle, config)
        loading.pop()
        return backend

    monkeypatch.setattr(openvino_backend, "load", watched)
    with ThreadPoolExecutor(4) as threads:
        loaded = [threads.submit(load_backend, voting, EstimatorConfig(backend="openvino")) for _ in range(4)]
        assert {x.result(60).name for x in loaded} == {"openvino"}
    assert together == [1, 1, 1, 1]


SIGNAL_AFTER_NETWORKS = """
import os, signal, sys
from pathlib import Path
from fm_pose_core.config import EstimatorConfig
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.runtime import load_backend

signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
bundle, config = ObjectBundle.load(Path(sys.argv[1])), EstimatorConfig(backend="openvino")
first, second = load_backend(bundle, config), load_backend(bundle, config)
del first
del second
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_two_networks_have_gone_is_heard(voting: ObjectBundle) -> None:
    """With an openvino.Core for each, its handler would have no stack any more: signal 11."""
    arguments = [sys.executable, "-c", SIGNAL_AFTER_NETWORKS, str(voting.path)]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "asked to stop\n"), found.stderr


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_network_with_another_contract_is_refused(tmp_path: Path, name: str) -> None:
    from onnx import TensorProto

    bundle = make_bundle(tmp_path / "small", voting_network(size=64).SerializeToString())
    with pytest.raises(InputError, match="network inputs"):
        load_backend(bundle, EstimatorConfig(backend=name))
    model = voting_network()
    del model.graph.output[1]
    bundle = make_bundle(tmp_path / "one_output", model.SerializeToString())
    with pytest.raises(InputError, match="network outputs"):
        load_backend(bundle, EstimatorConfig(backend=name))
    model = voting_network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    bundle = make_bundle(tmp_path / "floats", model.SerializeToString())
    with pytest.raises(InputError, match=r"network inputs: expected {'image': \('uint8', None, 128, 128, 3"):
        load_backend(bundle, EstimatorConfig(backend=name))


@pytest.mark.parametrize(
    ("name", "package"),
    [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("torch", "torch"), ("tensorrt", "tensorrt-rtx-cu13")],
)
def test_a_missing_engine_names_its_package(
    voting: ObjectBundle, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"backend {name}: .*pip install {package}"):
        load_backend(voting, EstimatorConfig(backend=name))
    with pytest.raises(InputError, match="none installed"):
        load_backend(voting)


def test_auto_takes_the_first_that_loads(
    voting: ObjectBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "_nvidia_gpu", lambda: False)
    assert load_backend(voting).name == "openvino"
    monkeypatch.setattr(runtime, "find_spec", lambda package: None if package == "openvino" else find_spec(package))
    assert load_backend(voting).name == "onnxruntime"
    monkeypatch.undo()

    def broken(name: str, bundle: ObjectBundle, config: EstimatorConfig) -> Any:
        if name == "openvino":
            raise ImportError("broken installation")
        return SimpleNamespace(name=name)

    monkeypatch.setattr(runtime, "_nvidia_gpu", lambda: False)
    monkeypatch.setattr(runtime, "_load", broken)
    with caplog.at_level(logging.WARNING):
        assert load_backend(voting).name == "onnxruntime"
    assert "openvino: broken installation" in caplog.text


def test_onnxruntime_refuses_a_precision_it_does_not_have(voting: ObjectBundle) -> None:
    with pytest.raises(InputError, match="precision: expected fp32 or auto"):
        load_backend(voting, EstimatorConfig(backend="onnxruntime", precision="bf16"))


# torch: the network as it was trained


ARCHITECTURES = {
    "compact": {"extractor": "compact", "width": 8, "features": 32},
    "one cell": {"extractor": "compact_global", "width": 8},
}


def random_network(architecture: dict) -> Any:
    """With no parameter at its initial value, since many begin at zero; all are numbers that fp16 has."""
    import torch

    from fm_pose_core.learning.networks import build_fused

    torch.manual_seed(0)
    network = build_fused(architecture, object_contract())
    with torch.no_grad():
        for p in network.parameters():
            scale = 0.3 / np.sqrt(p[0].numel()) if p.dim() > 1 else 0.1
            p.copy_((p + scale * torch.randn_like(p)).half())
        for head in (network.h.fc, network.h.error):
            head.weight.mul_(0.25)  # corners within the window, as a trained network has them
    return network


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the TorchScript exporter
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_all_backends_agree_with_torch(architecture: dict, images: np.ndarray, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from fm_pose_core.learning.export import to_onnx

    network = random_network(architecture)
    content = to_onnx(network)  # as it is shipped: weights stored as fp16
    with torch.inference_mode():
        expected = [x.numpy() for x in network(torch.from_numpy(images))]
        mapping, network.g = network.g, torch.nn.Identity()
        # Pixels: g is no identity.
        assert np.abs(network(torch.from_numpy(images))[0].numpy() - expected[0]).max() > 1.0
        network.g = mapping
    assert np.abs(expected[0][0] - expected[0][1]).max() > 1.0  # the network looks at the image
    bundle = make_bundle(tmp_path / "b", content, architecture)
    engines = [
        ("torch", "fp32", 1e-3),
        ("onnxruntime", "fp32", 0.01),
        ("openvino", "fp32", 0.01),
        ("torch", "bf16", 0.5),
    ]
    for name, precision, tolerance in engines:
        backend = load_backend(bundle, EstimatorConfig(backend=name, precision=precision))
        assert (backend.name, backend.precision) == (name, precision)
        answers = backend.infer(images)
        for ours, theirs in zip((answers["corners"], answers["spread"]), expected, strict=True):
            assert ours.dtype == np.float32 and np.abs(ours - theirs).max() < tolerance, name

    other = make_bundle(tmp_path / "other", content, {**architecture, "width": 16})
    with pytest.raises(InputError, match="expected shape"):
        load_backend(other, EstimatorConfig(backend="torch"))


def test_torch_names_missing_weights(voting: ObjectBundle, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = make_bundle(tmp_path / "b", voting.network_path.read_bytes(), ARCHITECTURES["compact"])
    with pytest.raises(InputError, match=r"parameters of its architecture by name, got none called f\."):
        load_backend(bundle, EstimatorConfig(backend="torch"))


# fp16 in the graph, for TensorRT


def test_fp16_graph_keeps_contract_and_tail() -> None:
    from onnx import TensorProto, shape_inference

    half = shape_inference.infer_shapes(to_fp16(voting_network()))
    types = {
        v.name: v.type.tensor_type.elem_type for v in [*half.graph.value_info, *half.graph.input, *half.graph.output]
    }
    types |= {i.name: i.data_type for i in half.graph.initializer}
    kinds = {
        node.op_type: {types[o] for o in node.output}
        for node in half.graph.node
        if node.op_type in ("Conv", "Softmax", "ReduceSum")
    }
    assert kinds == {"Conv": {TensorProto.FLOAT16}, "Softmax": {TensorProto.FLOAT}, "ReduceSum": {TensorProto.FLOAT}}
    for node in half.graph.node:  # strongly typed: no operator mixes fp16 and fp32
        if node.op_type != "Cast":
            assert {types[name] for name in [*node.input, *node.output]} & {1, 10} in ({1}, {10}, set()), node.name
    assert [(i.name, i.type.tensor_type.elem_type) for i in half.graph.input] == [("image", TensorProto.UINT8)]
    assert [(o.name, o.type.tensor_type.elem_type) for o in half.graph.output] == [("corners", 1), ("spread", 1)]


def test_fp16_graph_computes_the_same(voting: ObjectBundle, images: np.ndarray, tmp_path: Path) -> None:
    half = make_bundle(tmp_path / "half", to_fp16(voting_network()).SerializeToString())
    config = EstimatorConfig(backend="onnxruntime", threads=1)
    ours, theirs = (load_backend(b, config).infer(images) for b in (half, voting))
    assert 0 < np.abs(ours["corners"] - theirs["corners"]).max() < 0.5
    assert np.abs(ours["spread"] - theirs["spread"]).max() < 0.5


def test_fp16_graph_of_a_network_that_sees_depth() -> None:
    import onnx
    import onnxruntime

    bundle = HandBundle.load(ROOT / "models" / "hand")
    frames = read_frames("nyu", ROOT / "demo" / "hands", "test")
    solver = HandSolver(HandCrop(HandCropConfig(bundle.hand.size, bundle.hand.cube)))
    windows = []
    for i in range(0, len(frames), 8):
        center, depth, _ = annotated_hand(frames.depth(i), frames.camera, frames.joints[i], bundle.hand.cube)
        windows.append(solver.look(depth, frames.camera, center))
    network = onnx.load(str(bundle.network_path))
    answers = []
    for model in (network, to_fp16(network)):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["joints"], {"image": np.concatenate(windows)})[0])
    assert 0 < np.abs(answers[0] - answers[1]).max() < 1e-3  # metres


# The check of an engine


class Off:
    """A backend whose points are off by `amount`."""

    def __init__(self, bundle: ObjectBundle, amount: float) -> None:
        self._inner, self._amount = load_backend(bundle, EstimatorConfig(backend="onnxruntime")), amount
        self.name, self.device, self.precision = "off", self._inner.device, "fp32"

    def infer(self, images: Images) -> dict[str, np.ndarray]:
        answers = self._inner.infer(images)
        return {**answers, "corners": answers["corners"] + np.float32(self._amount)}


def test_an_engine_is_compared_with_onnxruntime(voting: ObjectBundle) -> None:
    windows = random_windows(voting.contract, 4)
    assert windows.dtype == np.uint8 and windows.shape == (4, SIZE, SIZE, 3)
    good = difference(load_backend(voting, EstimatorConfig(backend="openvino")), voting, windows)
    assert good.agrees and good.largest < 0.01
    bad = difference(Off(voting, 2.0), voting, windows)
    assert (bad.median, bad.relative) == (pytest.approx(2.0, abs=1e-4), pytest.approx(2.0 / 64, abs=1e-5))
    assert not bad.agrees
    median, high, highest = latency(Off(voting, 0.0), windows[:1], 5)
    assert 0 < median <= high <= highest
