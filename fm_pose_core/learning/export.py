"""From a training run to a bundle: h∘g∘f as one ONNX network (section 3.3) with everything needed to use it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fm_pose_core.bundle import Bundle, NetworkFile
from fm_pose_core.config import EngineConfig, to_dict
from fm_pose_core.errors import expect
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.experiment import Experiment, Export, Part
from fm_pose_core.learning.loader import Source
from fm_pose_core.learning.logbook import read_log
from fm_pose_core.learning.networks import Fused
from fm_pose_core.runtime import load_backend

OPSET = 17
SAMPLE, APART = 4, 16  # windows; neighbours show the same view
FP16_FROM = 256  # numbers in a weight that is worth storing as fp16
FP16_LARGEST = 65504.0


def export(
    experiment: Experiment,
    run: Path,
    bundle: Path,
    precision: str = "fp16",
    refine: str = "auto",
    support: str = "auto",
) -> Bundle:
    """Write the bundle of a finished run. refine, support: see Export. Raises InputError if the run's files or its data
    are missing, or for a refinement that it cannot have."""
    state = read_checkpoint(run, experiment)
    network = _fused(run, state, experiment)
    architecture = _architecture(experiment)
    trained_parts = {k: x for k, x in experiment.parts().items() if (run / k / checkpoints.LATEST).is_file()}
    parts = {k: _part(run / k, x, precision) for k, x in trained_parts.items()}
    trained = {"trained": state["trained"]} if "trained" in state else {}  # older runs don't tell
    record = {"configuration": to_dict(experiment), **trained, **_last_validation(run)}
    data = experiment.read_data()
    onnx, windows = to_onnx(network, precision), sample(data.source)
    made = Export(network, onnx, architecture, record, windows, parts, refine, support)
    written = data.write_bundle(bundle, made)
    for one in written.networks:
        load_backend(one, EngineConfig(backend="onnxruntime"))  # a bundle that does not load is none
    return written


def _architecture(experiment: Experiment) -> dict[str, Any]:
    return to_dict(replace(experiment.network, mapping=experiment.how.mapping, weights=""))


def _part(run: Path, experiment: Experiment, precision: str) -> Part:
    state = read_checkpoint(run, experiment, ("schedule",))  # however it was trained
    network = _fused(run, state, experiment)
    return Part(network, NetworkFile(to_onnx(network, precision), _architecture(experiment), network.contract))


def sample(source: Source) -> NDArray[np.generic]:
    """A few windows of the renderings that it is trained on, always the same."""
    renderings, _ = source.open(True, False, np.random.default_rng(0))
    assert renderings is not None
    try:
        drawn = [renderings.draw()[0] for _ in range(SAMPLE * APART)]
        return np.stack(drawn[::APART])
    finally:
        renderings.close()


def fused_of(run: Path, experiment: Experiment) -> Fused:
    """The fused network of a run. Without a mapping g it is h∘f."""
    return _fused(run, read_checkpoint(run, experiment), experiment)


def read_checkpoint(run: Path, experiment: Experiment, ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """The last state of a run of this experiment. ignored: sections of its configuration that may be others. Raises
    InputError."""
    path = run / checkpoints.LATEST
    state = checkpoints.read(path, torch.device("cpu"), "the checkpoint of a training run", type(experiment))
    theirs, ours = ({k: v for k, v in experiment.own(x).items() if k not in ignored} for x in (state["config"], None))
    checkpoints.expect_same(path, "a checkpoint of the run's config.yaml", theirs, ours)
    return state


def _fused(run: Path, state: dict[str, Any], experiment: Experiment) -> Fused:
    model = experiment.untrained().model()
    with checkpoints.expected(run / checkpoints.LATEST, "weights of the network of this configuration"):
        model.load_state_dict(checkpoints.weights(state))
    return Fused(model).eval()


def to_onnx(network: Fused, precision: str = "fp16") -> bytes:
    """The network as an ONNX file (opset 17, dynamic batch; see docs/design.md). precision: how weights are stored,
    fp16 or fp32."""
    import onnx

    buffer, contract = io.BytesIO(), network.contract
    kind = torch.uint8 if contract.image_type is np.uint8 else torch.float32
    outputs = [x.name for x in contract.outputs]
    torch.onnx.export(
        network,
        (torch.zeros((2, *contract.image_shape), dtype=kind),),
        cast(Any, buffer),
        input_names=["image"],
        output_names=outputs,
        opset_version=OPSET,
        dynamo=False,
        dynamic_axes={name: {0: "N"} for name in ("image", *outputs)},
        do_constant_folding=False,
    )
    model = onnx.load_from_string(buffer.getvalue())
    if precision == "fp16":
        _store_as_fp16(model)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _store_as_fp16(model: Any) -> None:
    """Halve the file: each large weight becomes fp16 under its own name, followed by a Cast back to fp32."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < FP16_FROM:
            continue
        largest = float(np.abs(values).max())
        expect(largest < FP16_LARGEST, tensor.name, "weights within fp16's range", largest)
        wide = f"{tensor.name}.fp32"
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[i] = wide
        casts.append(helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT, name=f"{tensor.name}.cast"))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for i, node in enumerate(casts):
        model.graph.node.insert(i, node)


def _last_validation(run: Path) -> dict[str, Any]:
    validated = [line for line in read_log(run) if any(k.startswith("validation/") for k in line)]
    return {"validation": validated[-1]} if validated else {}
