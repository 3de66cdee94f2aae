"""A small random network with the make-up of the real ones: convolutions, then cells that vote for the corners through
a softmax. Some weights are stored as fp16."""

from typing import Any

import numpy as np

from fm_pose_core.contract import CORNERS

CELLS = 8


def voting_network(size: int = 128, width: int = 32, seed: int = 0) -> Any:
    """onnx.ModelProto with the contract of docs/design.md."""
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(seed)
    node = helper.make_node
    initializers: list[Any] = []

    def weight(name: str, value: Any, dtype: Any = np.float32) -> str:
        initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def random(name: str, *shape: int, dtype: Any = np.float32) -> str:
        return weight(name, rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[1:])), dtype)

    cells = CELLS * CELLS
    step = size / CELLS
    centers = (
        np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(1, 1, cells, 2) * step + (step - 1) / 2
    )
    nodes = [
        node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        node("Div", ["floats", weight("scale", 127.5)], ["scaled"]),
        node("Sub", ["scaled", weight("offset", 1.0)], ["x0"]),
        node(
            "Conv",
            ["x0", random("conv1.weight", width, 3, 4, 4), weight("conv1.bias", np.zeros(width))],
            ["x1"],
            strides=[4, 4],
        ),
        node("Relu", ["x1"], ["x2"]),
        node("Cast", [random("conv2.weight", width, width, 4, 4, dtype=np.float16)], ["conv2"], to=TensorProto.FLOAT),
        node("Conv", ["x2", "conv2", weight("conv2.bias", np.zeros(width))], ["x3"], strides=[4, 4]),
        node("Relu", ["x3"], ["x4"]),  # (N, width, CELLS, CELLS)
        node("Conv", ["x4", random("head.weight", 3 * CORNERS, width, 1, 1)], ["votes"]),
        node("Reshape", ["votes", weight("flat", [0, CORNERS, 3, cells], np.int64)], ["v0"]),
        node("Transpose", ["v0"], ["v1"], perm=[0, 1, 3, 2]),  # (N, 8, cells, 3)
        node("Split", ["v1", weight("parts", [1, 2], np.int64)], ["logits", "shifts"], axis=3),
        node("Softmax", ["logits"], ["confidence"], axis=2),
        node("Mul", ["shifts", weight("reach", 20.0)], ["shift_px"]),
        node("Add", ["shift_px", weight("centers", centers)], ["where"]),
        node("Mul", ["where", "confidence"], ["weighted"]),
        node("ReduceSum", ["weighted", weight("cell_axis", [2], np.int64)], ["mean"], keepdims=1),
        node("Sub", ["where", "mean"], ["off"]),
        node("Mul", ["off", "off"], ["off2"]),
        node("Mul", ["off2", "confidence"], ["off2w"]),
        node("ReduceSum", ["off2w", "cell_axis"], ["variance"], keepdims=0),
        node("Sqrt", ["variance"], ["deviation"]),
        node("Squeeze", ["mean", "cell_axis"], ["points"]),
        node("Unsqueeze", ["points", weight("object_axis", [1], np.int64)], ["corners"]),  # (N, 1, 8, 2)
        node("Unsqueeze", ["deviation", "object_axis"], ["spread"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1, CORNERS, 2]) for name in ("corners", "spread")
    ]
    graph = helper.make_graph(nodes, "votes", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model
