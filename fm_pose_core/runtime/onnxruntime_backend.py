"""ONNX Runtime on the CPU, fp32: runs everywhere."""

import os
from typing import Any

import numpy as np

from fm_pose_core.bundle import Network
from fm_pose_core.config import EngineConfig
from fm_pose_core.errors import InputError, expect
from fm_pose_core.runtime import Floats, Images, check_contract

TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}  # as numpy calls them


class OnnxRuntimeBackend:
    name = "onnxruntime"
    precision = "fp32"

    def __init__(self, bundle: Network, config: EngineConfig) -> None:
        import onnxruntime as ort

        expect(
            config.precision in ("auto", "fp32"),
            "precision",
            "fp32 or auto with onnxruntime on a CPU",
            config.precision,
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                os.fspath(bundle.network_path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise InputError(
                f"{bundle.network_path}: expected a network that ONNX Runtime loads, got {error}"
            ) from None
        check_contract(_tensors(self._session.get_inputs()), _tensors(self._session.get_outputs()), bundle.contract)
        self.device = "CPU"
        self._contract = bundle.contract

    def infer(self, images: Images) -> dict[str, Floats]:
        """See Backend."""
        names = [x.name for x in self._contract.outputs]
        answers = self._session.run(names, {"image": np.ascontiguousarray(images)})
        return dict(zip(names, answers, strict=True))


def _tensors(tensors: Any) -> dict[str, tuple]:
    return {t.name: (TYPES.get(t.type, t.type), *(d if isinstance(d, int) else None for d in t.shape)) for t in tensors}


def load(bundle: Network, config: EngineConfig) -> OnnxRuntimeBackend:
    """The network of `bundle` in ONNX Runtime."""
    return OnnxRuntimeBackend(bundle, config)
