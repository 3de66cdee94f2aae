"""OpenVINO on the CPU: the fastest engine on x86.

Its own choice would be bf16 where the processor has AMX: more than twice as fast as fp32, but a corner of a real image
was then up to 1.7 px off. So bf16 is for those who ask for it, and it is checked against fp32 when the network is
loaded: OpenVINO 2026.4 computes some convolutions (16 channels, 4x4 kernel, stride 4) wrongly in bf16 on AMX, without a
word.
"""

from functools import cache
from typing import Any

import numpy as np

from fm_pose_core.bundle import Network
from fm_pose_core.config import EngineConfig
from fm_pose_core.contract import Contract
from fm_pose_core.errors import InputError, expect
from fm_pose_core.runtime import Floats, Images, check_contract
from fm_pose_core.runtime.check import random_windows

# Of half a window: median difference of the points on random images beyond which a precision counts as broken.
TOLERANCE = 0.03
TYPES = {"u8": "uint8", "f32": "float32"}  # as numpy calls them
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoBackend:
    name = "openvino"

    def __init__(self, bundle: Network, config: EngineConfig) -> None:
        core = the_core()
        asked = "fp32" if config.precision == "auto" else config.precision
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[asked]}
        if config.threads:
            options["INFERENCE_NUM_THREADS"] = str(config.threads)
        try:
            model = core.read_model(bundle.network_path)
            check_contract(
                {t.any_name: _tensor(t) for t in model.inputs},
                {t.any_name: _tensor(t) for t in model.outputs},
                bundle.contract,
            )
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise InputError(f"{bundle.network_path}: expected a network that OpenVINO loads, got {error}") from None
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = next((ours for ours, theirs in PRECISIONS.items() if theirs == chosen), "fp32")
        expect(asked == self.precision, "precision", f"what OpenVINO does on this processor ({self.precision})", asked)
        if self.precision != "fp32":
            reference = core.compile_model(model, "CPU", {**options, "INFERENCE_PRECISION_HINT": "f32"})
            difference = _difference(compiled, reference, bundle.contract)
            wrong = f"points that differ from fp32's by {difference:.1%} of the half window"
            expect(difference <= TOLERANCE, f"precision {self.precision}", "the network's points", wrong)
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        self._contract, self._request = bundle.contract, compiled.create_infer_request()
        self._images = self._request.get_input_tensor()
        self._shape: tuple[int, ...] = ()

    def infer(self, images: Images) -> dict[str, Floats]:
        """See Backend."""
        # Into the engine's own buffer: to make another array its input takes longer than to copy the images.
        if images.shape != self._shape:
            self._images.shape = self._shape = images.shape
        np.copyto(self._images.data, images)
        self._request.infer()
        return {x.name: np.array(self._request.get_tensor(x.name).data) for x in self._contract.outputs}


@cache
def the_core() -> Any:
    """The one openvino.Core of this process. Each Core (of OpenVINO 2026.4 on Linux) gives signal handlers a stack in
    memory of its own, which it frees at its end; of two that end in the order in which they began, the second one
    brings back the stack that the first one freed, and the next signal (Ctrl-C) is a crash."""
    import openvino as ov

    return ov.Core()


def _difference(compiled: Any, reference: Any, contract: Contract) -> float:
    """Median difference, in halves of a window or cube, between the points that two compiled networks find in images of
    random patches."""
    points = contract.outputs[0]
    images = random_windows(contract, 4)
    # Not compiled(images): that keeps a pointer into the array, which the next request follows after the array is gone.
    requests = (network.create_infer_request() for network in (compiled, reference))
    ours, theirs = (np.array(request.infer({"image": images.copy()})[points.name]) for request in requests)
    return float(np.median(np.abs(ours - theirs))) / points.scale


def _tensor(tensor: Any) -> tuple:
    kind = tensor.get_element_type().get_type_name()
    sides = (None if d.is_dynamic else d.get_length() for d in tensor.get_partial_shape())
    return (TYPES.get(kind, kind), *sides)


def load(bundle: Network, config: EngineConfig) -> OpenVinoBackend:
    """The network of `bundle` in OpenVINO."""
    return OpenVinoBackend(bundle, config)
