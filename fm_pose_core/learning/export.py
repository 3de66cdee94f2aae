"""From a training run to a bundle: h∘g∘f as one ONNX network (section 3.3) with everything needed to use it."""

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fm_pose_core.bundle import Bundle
from fm_pose_core.config import EstimatorConfig, to_dict
from fm_pose_core.errors import expect
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig
from fm_pose_core.runtime import load_backend
from fm_pose_core.tasks import load_experiment

OPSET = 17


def fused_of(run: Path, experiment: Experiment) -> Fused:
    """The fused network of a run. Without a mapping g it is h∘f."""
    path = run / "checkpoint.pt"
    expect(path.is_file(), str(path), "the checkpoint of a training run", "nothing there")
    state = torch.load(path, map_location="cpu", weights_only=True)
    same = json.loads(state["config"]) == to_dict(experiment)
    expect(same, str(run), "a checkpoint of the run's config.yaml", "one of another configuration")

    model = FeatureMapping(network_config(experiment), experiment.contract())
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in state["objective"].items() if k.startswith("model.")}
    )
    return Fused(model).eval()


def to_onnx(network: Fused, precision: str = "fp16") -> bytes:
    """The network as an ONNX file (opset 17, dynamic batch; see docs/design.md). precision: how weights are stored,
    fp16 or fp32."""
    import onnx

    buffer = io.BytesIO()
    contract = network.contract
    example = torch.zeros(
        (2, *contract.image_shape), dtype=torch.uint8 if contract.image_type is np.uint8 else torch.float32
    )
    torch.onnx.export(
        network,
        (example,),
        cast(Any, buffer),
        input_names=["image"],
        output_names=[contract.output, "spread"],
        opset_version=OPSET,
        dynamo=False,
        dynamic_axes={"image": {0: "N"}, contract.output: {0: "N"}, "spread": {0: "N"}},
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
        if values.dtype != np.float32 or values.size < 256:
            continue
        expect(
            float(np.abs(values).max()) < 65504, tensor.name, "weights within fp16's range", float(np.abs(values).max())
        )
        wide = f"{tensor.name}.fp32"
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[i] = wide
        casts.append(helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT, name=f"{tensor.name}.cast"))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for i, node in enumerate(casts):
        model.graph.node.insert(i, node)


def export(run: Path, bundle: Path, precision: str = "fp16") -> Bundle:
    """Write the bundle of a finished run. Raises InputError if the run's files or its data are missing."""
    experiment = load_experiment(run / "config.yaml")
    network = fused_of(run, experiment)
    made = experiment.read_data().write_bundle(
        bundle,
        network,
        to_onnx(network, precision),
        to_dict(network_config(experiment)),
        {"configuration": to_dict(experiment), **_last_log(run)},
    )
    load_backend(made, EstimatorConfig(backend="onnxruntime"))  # a bundle that does not load is none
    return made


def network_config(experiment: Experiment) -> NetworkConfig:
    """The network's configuration as it was built: without initial weights, with a mapping only where the method has
    one."""
    return replace(experiment.network, mapping=experiment.method == "feature_mapping", weights="")


def _last_log(run: Path) -> dict[str, Any]:
    lines = (
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        if (run / "log.jsonl").is_file()
        else []
    )
    validated = [line for line in lines if any(k.startswith("validation/") for k in line)]
    return {"validation": validated[-1]} if validated else {}


def main(arguments: argparse.Namespace) -> int:
    """`fm-pose export`."""
    made = export(Path(arguments.run_dir), Path(arguments.bundle_dir), arguments.precision)
    size = sum(p.stat().st_size for p in made.path.iterdir()) / 1e6
    print(f"{made.path}: {made.name}, {size:.1f} MB")
    return 0
