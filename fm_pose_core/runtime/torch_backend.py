"""PyTorch: the reference that the others are compared with. Builds the network from the manifest's architecture and
reads its weights from network.onnx, whose initialisers carry the names of the parameters (fp32 or fp16)."""

from typing import Any

import numpy as np

from fm_pose_core.bundle import Bundle
from fm_pose_core.config import EngineConfig
from fm_pose_core.errors import InputError, expect
from fm_pose_core.runtime import Floats, Images


class TorchBackend:
    name = "torch"

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        import torch

        from fm_pose_core.learning.networks import build_fused

        self._torch = torch
        on_gpu = torch.cuda.is_available()
        self.device = torch.cuda.get_device_name() if on_gpu else "CPU"
        self.precision = "fp32" if config.precision == "auto" else config.precision
        expect(
            on_gpu or self.precision != "fp16", "precision", "fp32, bf16 or auto with torch on a CPU", self.precision
        )
        if config.threads:
            torch.set_num_threads(config.threads)
        self._place = torch.device("cuda" if on_gpu else "cpu")
        self._autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        self._contract = bundle.contract
        self._network = build_fused(bundle.manifest.network.architecture, bundle.contract)
        _read_weights(self._network, bundle)
        self._network.to(self._place).eval()

    def infer(self, images: Images) -> dict[str, Floats]:
        """See Backend."""
        torch = self._torch
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self._place)
        kind = self._autocast or torch.bfloat16
        with torch.inference_mode(), torch.autocast(self._place.type, kind, enabled=self._autocast is not None):
            answers = self._network(x)
        named = zip(self._contract.outputs, answers, strict=True)
        return {x.name: v.float().cpu().numpy() for x, v in named}


def _read_weights(network: Any, bundle: Bundle) -> None:
    """Fill the network's parameters and buffers, each of which must be an initialiser of the same name and shape.

    torch.onnx stores equal parameters once, and names the others by Identity nodes; fp16 weights have a Cast behind
    them."""
    import onnx
    import torch

    try:
        graph = onnx.load(str(bundle.network_path)).graph
    except Exception as error:  # protobuf's DecodeError, whose package need not be named here
        raise InputError(f"{bundle.network_path}: expected an ONNX file, got {error}") from None
    stored = {i.name: i for i in graph.initializer}
    for node in graph.node:  # sorted topologically, so that an alias of an alias is found as well
        if node.op_type in ("Identity", "Cast") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    own = network.state_dict()
    missing = [name for name in own if name not in stored]
    got = f"none called {', '.join(missing[:3])}"
    expect(not missing, str(bundle.network_path), f"the {len(own)} parameters of its architecture by name", got)
    weights = {name: torch.from_numpy(onnx.numpy_helper.to_array(stored[name]).copy()) for name in own}
    for name, value in weights.items():
        expect(
            value.shape == own[name].shape,
            f"{bundle.network_path}: {name}",
            f"shape {tuple(own[name].shape)}",
            tuple(value.shape),
        )
    network.load_state_dict(weights)


def load(bundle: Bundle, config: EngineConfig) -> TorchBackend:
    """The network of `bundle` in PyTorch, on the GPU if there is one."""
    return TorchBackend(bundle, config)
