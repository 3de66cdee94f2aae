"""From a training run to a bundle: h∘g∘f as one ONNX network (section 3.3) with everything needed to use it."""

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fm_pose_core.bundle import Bundle, write_bundle
from fm_pose_core.config import load_yaml, to_dict
from fm_pose_core.data.loader import Batches
from fm_pose_core.data.renderer import Mesh
from fm_pose_core.errors import expect
from fm_pose_core.experiment import Data, Experiment, read_data
from fm_pose_core.geometry import project
from fm_pose_core.networks import FeatureMapping, Fused
from fm_pose_core.pnp import expected_projection_error, solve_pnp

OPSET = 17


def fused_of(run: Path, experiment: Experiment) -> Fused:
    """The fused network of a run. Without a mapping g it is h∘f."""
    path = run / "checkpoint.pt"
    expect(path.is_file(), str(path), "the checkpoint of a training run", "nothing there")
    state = torch.load(path, map_location="cpu", weights_only=True)

    mapping = experiment.method == "feature_mapping"
    model = FeatureMapping(replace(experiment.network, mapping=mapping), experiment.crop.size)
    model.load_state_dict({k.removeprefix("model."): v for k, v in state["objective"].items() if k.startswith("model.")})
    return Fused(model).eval()


def to_onnx(network: Fused, precision: str = "fp16") -> bytes:
    """The network as an ONNX file (opset 17, dynamic batch; see docs/design.md). precision: how weights are stored, fp16 or fp32."""
    import onnx

    buffer = io.BytesIO()
    example = torch.zeros((2, network.size, network.size, 3), dtype=torch.uint8)
    torch.onnx.export(
        network, (example,), cast(Any, buffer), input_names=["image"], output_names=["corners", "spread"], opset_version=OPSET, dynamo=False,
        dynamic_axes={"image": {0: "N"}, "corners": {0: "N"}, "spread": {0: "N"}}, do_constant_folding=False,
    )  # fmt: skip
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
        expect(float(np.abs(values).max()) < 65504, tensor.name, "weights within fp16's range", float(np.abs(values).max()))
        wide = f"{tensor.name}.fp32"
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[i] = wide
        casts.append(helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT, name=f"{tensor.name}.cast"))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for i, node in enumerate(casts):
        model.graph.node.insert(i, node)


def score_scale(network: Fused, data: Data, samples: int = 256) -> float:
    """Calibrates ObjectPose.score: the median ratio of the true 2D error of the corners to the expected one, over fresh training
    samples (real ones where there are any)."""
    real = bool(data.source.views)
    batch = next(iter(Batches(data.source, 0 if real else samples, samples if real else 0, (2026,))))
    images, truths = (batch["x_r"], batch["y_r"]) if real else (batch["x_s"], batch["y_s"])
    with torch.inference_mode():
        predicted, spread = (x.double().numpy() for x in network(images))
    K, box = data.source.crop.K, data.source.corners
    ratios = []
    for corners, deviation, truth in zip(predicted, spread, truths.double().numpy(), strict=True):
        solution = solve_pnp(box, corners, K, deviation)
        if solution.accepted:
            T = solution.T_camera_object
            expected = expected_projection_error(T, solution.covariance, box, K)
            actual = np.linalg.norm(project(K, box @ T[:3, :3].T + T[:3, 3]) - truth, axis=1).mean()
            ratios.append(actual / max(expected, 1e-6))
    return float(np.clip(np.median(ratios), 0.05, 20.0)) if ratios else 1.0


def mesh_file(mesh: Mesh) -> bytes:
    """The mesh as binary PLY with vertex colours, metres (for RViz)."""
    import trimesh

    out: bytes = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colours, process=False).export(file_type="ply")
    return out


def export(run: Path, bundle: Path, precision: str = "fp16") -> Bundle:
    """Write the bundle of a finished run. Raises InputError if the run's files or its data are missing."""
    experiment = load_yaml(Experiment, run / "config.yaml")
    network = fused_of(run, experiment)
    data = read_data(experiment)
    architecture = {**to_dict(network_config(experiment)), "size": experiment.crop.size}
    model = data.model
    return write_bundle(
        bundle, network=to_onnx(network, precision), architecture=architecture, name=experiment.object.name or model.name,
        object_id=model.id, minimum=model.minimum, maximum=model.maximum, diameter=model.diameter, crop=data.source.crop,
        symmetries=model.symmetries, mesh=mesh_file(data.source.mesh), score_scale=score_scale(network, data),
        training={"configuration": to_dict(experiment), **_last_log(run)},
    )  # fmt: skip


def network_config(experiment: Experiment) -> Any:
    """The network's configuration as it was built: without initial weights, with a mapping only where the method has one."""

    return replace(experiment.network, mapping=experiment.method == "feature_mapping", weights="")


def _last_log(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] if (run / "log.jsonl").is_file() else []
    validated = [line for line in lines if any(k.startswith("validation/") for k in line)]
    return {"validation": validated[-1]} if validated else {}


def main(arguments: argparse.Namespace) -> int:
    """`fm-pose export`."""
    made = export(Path(arguments.run_dir), Path(arguments.bundle_dir), arguments.precision)
    size = sum(p.stat().st_size for p in made.path.iterdir()) / 1e6
    print(f"{made.path}: {made.name}, {size:.1f} MB")
    return 0
