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
from fm_pose_core.config import EstimatorConfig, load_yaml, to_dict
from fm_pose_core.data.bop import read_image
from fm_pose_core.data.renderer import Mesh
from fm_pose_core.errors import expect
from fm_pose_core.experiment import Data, Experiment, read_data
from fm_pose_core.geometry import apply, log_so3, transform
from fm_pose_core.networks import FeatureMapping, Fused
from fm_pose_core.pnp import solve_pnp
from fm_pose_core.runtime import load_backend
from fm_pose_core.types import Window

OPSET = 17
CHI2_MEDIAN = 5.348  # of the χ² distribution with 6 degrees of freedom


def fused_of(run: Path, experiment: Experiment) -> Fused:
    """The fused network of a run. Without a mapping g it is h∘f."""
    path = run / "checkpoint.pt"
    expect(path.is_file(), str(path), "the checkpoint of a training run", "nothing there")
    state = torch.load(path, map_location="cpu", weights_only=True)
    same = json.loads(state["config"]) == to_dict(experiment)
    expect(same, str(run), "a checkpoint of the run's config.yaml", "one of another configuration")

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


def spread_scale(network: Fused, data: Data) -> float:
    """The factor on the network's spread for which the poses' covariance fits their errors: the median of eᵀC⁻¹e is that of a χ²
    distribution with 6 degrees of freedom. Over the validation photographs, or, without any, those of the training."""
    crop, box = data.source.crop, data.source.corners
    images, truths = [], []
    for x in data.validation or data.training:
        if not x.visible_fraction < 0.1:
            window = Window(*x.camera.pixels(apply(x.T_camera_object, box.mean(0)[None]))[0])
            image, R_camera_window = crop.cut(read_image(x.image_path), x.camera, window)
            images.append(image)
            truths.append(transform(R_camera_window.T, np.zeros(3)) @ x.T_camera_object)
    if not images:
        return 1.0
    with torch.inference_mode():
        parts = [network(torch.from_numpy(np.stack(images[i : i + 64]))) for i in range(0, len(images), 64)]
    corners, spread = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))

    def excess(scale: float) -> float:
        values = []
        for c, s, truth in zip(corners, spread, truths, strict=True):
            solution = solve_pnp(box, c, crop.K, s, spread_scale=scale)
            if solution.accepted:
                T = solution.T_camera_object
                e = np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])
                values.append(e @ np.linalg.solve(solution.covariance, e))
        return abs(float(np.log(np.median(values) / CHI2_MEDIAN))) if values else 0.0

    return float(min(np.geomspace(0.1, 30.0, 60), key=excess))


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
    made = write_bundle(
        bundle, network=to_onnx(network, precision), architecture=architecture, name=experiment.object.name or model.name,
        object_id=model.id, minimum=model.minimum, maximum=model.maximum, diameter=model.diameter, crop=data.source.crop,
        symmetries=model.symmetries, mesh=mesh_file(data.source.mesh), spread_scale=spread_scale(network, data),
        training={"configuration": to_dict(experiment), **_last_log(run)},
    )  # fmt: skip
    load_backend(made, EstimatorConfig(backend="onnxruntime"))  # a bundle that does not load is none
    return made


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
