"""PyTorch: the reference that the others are compared with. Builds the network from the manifest's architecture and
reads its weights from network.onnx, whose initialisers carry the names of the parameters (fp32 or fp16)."""

from typing import Any

import numpy as np

from fm_pose_core.bundle import Network
from fm_pose_core.config import EngineConfig
from fm_pose_core.errors import expect
from fm_pose_core.runtime import Floats, Images
from fm_pose_core.runtime.weights import named_weights


class TorchBackend:
    name = "torch"

    def __init__(self, bundle: Network, config: EngineConfig) -> None:
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
        self._network = build_fused(bundle.network.architecture, bundle.contract)
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


def _read_weights(network: Any, bundle: Network) -> None:
    """Fill the network's parameters and buffers, each of which must be an initialiser of the same name and shape."""
    import torch

    stored = named_weights(bundle.network_path)
    own = network.state_dict()
    missing = [name for name in own if name not in stored]
    got = f"none called {', '.join(missing[:3])}"
    expect(not missing, str(bundle.network_path), f"the {len(own)} parameters of its architecture by name", got)
    weights = {name: torch.from_numpy(stored[name].copy()) for name in own}
    for name, value in weights.items():
        expect(
            value.shape == own[name].shape,
            f"{bundle.network_path}: {name}",
            f"shape {tuple(own[name].shape)}",
            tuple(value.shape),
        )
    network.load_state_dict(weights)


def load(bundle: Network, config: EngineConfig) -> TorchBackend:
    """The network of `bundle` in PyTorch, on the GPU if there is one."""
    return TorchBackend(bundle, config)
