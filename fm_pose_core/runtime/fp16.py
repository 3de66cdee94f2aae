"""Half precision written into an ONNX graph, for engines that take the arithmetic from the types in it (TensorRT).

The body of the network runs in fp16, which is where the time goes. Its numerically delicate tail stays in fp32: the
softmax over the votes and whatever follows it, and the last operators behind the last convolution or matrix product.
"""

from collections.abc import Iterable
from typing import Any

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
SUFFIX = "__fp16"


def to_fp16(model: Any) -> Any:
    """onnx.ModelProto in fp32 -> a new one whose body computes in fp16. Inputs and outputs keep their types.

    An operator belongs to the body if a heavy one (convolution, matrix product) that no softmax precedes needs its
    result. Models with subgraphs (If, Loop) are not handled; the networks of this package have none.
    """
    import onnx
    from onnx import helper

    model = onnx.shape_inference.infer_shapes(model)
    graph, body, rewriter = model.graph, _body(model.graph), _Rewriter(model.graph)
    rewriter.made_in_body = {o for i in body for o in graph.node[i].output} & rewriter.floats
    for i, old in enumerate(graph.node):
        node = onnx.NodeProto()
        node.CopyFrom(old)
        (rewriter.add_half if i in body else rewriter.add_full)(node)
    rewriter.widen(value.name for value in graph.output)
    used = {name for node in rewriter.nodes for name in node.input}
    weights = [*(i for i in graph.initializer if i.name in used), *rewriter.halved.values()]
    half_graph = helper.make_graph(rewriter.nodes, graph.name, list(graph.input), list(graph.output), weights)
    half_model = helper.make_model(half_graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    onnx.checker.check_model(half_model)
    return half_model


class _Rewriter:
    """Collects the nodes of the new graph. floats: names of all fp32 tensors. made_in_body: of those that are fp16 now.
    halved: fp16 copies of weights, by name."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto

        types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}
        types |= {i.name: i.data_type for i in graph.initializer}
        self.floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self.made_in_body: set[str] = set()
        self.nodes: list[Any] = []
        self.halved: dict[str, Any] = {}
        self._weights = {i.name: i for i in graph.initializer}
        self._inputs = {v.name for v in graph.input}
        self._narrowed: set[str] = set()
        self._widened: set[str] = set()  # tensors of the body for which an fp32 copy stands in the graph

    def add_half(self, node: Any) -> None:
        """A node of the body."""
        from onnx import TensorProto, numpy_helper

        for k, name in enumerate(list(node.input)):
            if name in self._weights and name in self.floats:
                self._halve(name)
                node.input[k] = name + SUFFIX
            elif name in self._inputs and name in self.floats:
                self._narrow(name)
                node.input[k] = name + SUFFIX
            elif name in self.made_in_body:
                node.input[k] = name + SUFFIX
        for k, name in enumerate(list(node.output)):
            if name in self.made_in_body:
                node.output[k] = name + SUFFIX
        _retype(node, numpy_helper, TensorProto)
        self.nodes.append(node)

    def add_full(self, node: Any) -> None:
        """A node that keeps its arithmetic."""
        self.widen(node.input)
        self.nodes.append(node)

    def widen(self, names: Iterable[str]) -> None:
        """fp32 copies of those tensors that the body made."""
        from onnx import TensorProto, helper

        for name in names:
            if name in self.made_in_body and name not in self._widened:
                self._widened.add(name)
                self.nodes.append(helper.make_node("Cast", [name + SUFFIX], [name], to=TensorProto.FLOAT))

    def _narrow(self, name: str) -> None:
        """An fp16 copy of an fp32 input, such as a depth map."""
        from onnx import TensorProto, helper

        if name not in self._narrowed:
            self._narrowed.add(name)
            self.nodes.append(helper.make_node("Cast", [name], [name + SUFFIX], to=TensorProto.FLOAT16))

    def _halve(self, name: str) -> None:
        import numpy as np
        from onnx import numpy_helper

        half = numpy_helper.to_array(self._weights[name]).astype(np.float16)
        self.halved[name] = numpy_helper.from_array(half, name + SUFFIX)


def _body(graph: Any) -> set[int]:
    """Indices of the nodes that a heavy one, itself among them, needs, where no softmax comes before it."""
    producer = {o: i for i, node in enumerate(graph.node) for o in node.output}
    behind_softmax: set[int] = set()
    for i, node in enumerate(graph.node):  # nodes are sorted topologically
        if "Softmax" in node.op_type or any(producer.get(name) in behind_softmax for name in node.input):
            behind_softmax.add(i)
    body: set[int] = set()
    waiting = [i for i, node in enumerate(graph.node) if node.op_type in HEAVY and i not in behind_softmax]
    while waiting:
        i = waiting.pop()
        if i not in body:
            body.add(i)
            waiting += [producer[name] for name in graph.node[i].input if name in producer]
    return body


def _retype(node: Any, numpy_helper: Any, TensorProto: Any) -> None:
    """Let a Cast to fp32, or a constant in fp32, be fp16."""
    import numpy as np

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if (
            node.op_type in ("Constant", "ConstantOfShape")
            and attribute.name == "value"
            and attribute.t.data_type == TensorProto.FLOAT
        ):
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            attribute.Clear()
            attribute.name, attribute.type = "value", attribute.TENSOR
            attribute.t.CopyFrom(numpy_helper.from_array(np.array(values, dtype=np.float16)))
