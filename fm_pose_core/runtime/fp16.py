"""Half precision written into an ONNX graph, for engines that take the arithmetic from the types in it (TensorRT).

The body of the network runs in fp16, which is where the time goes. Its numerically delicate tail stays in fp32: the
softmax over the votes and whatever follows it, and the last operators behind the last convolution or matrix product.
"""

from typing import Any

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
SUFFIX = "__fp16"


def to_fp16(model: Any) -> Any:
    """onnx.ModelProto in fp32 -> a new one whose body computes in fp16. Inputs and outputs keep their types.

    An operator belongs to the body if a heavy one (convolution, matrix product) that no softmax precedes needs its
    result. Models with subgraphs (If, Loop) are not handled; the networks of this package have none.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    body = _body(graph)
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}
    types |= {i.name: i.data_type for i in graph.initializer}
    weights = {i.name: i for i in graph.initializer}
    is_float = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    made_in_body = {o for i, node in enumerate(graph.node) if i in body for o in node.output} & is_float
    added: dict[str, Any] = {}  # fp16 copies of weights, by name
    widened: set[str] = set()  # tensors of the body for which a fp32 copy stands in the graph
    inputs = {v.name for v in graph.input}
    nodes = []
    for i, old in enumerate(graph.node):
        node = onnx.NodeProto()
        node.CopyFrom(old)
        if i in body:
            for k, name in enumerate(old.input):
                if name in weights and name in is_float:
                    half = numpy_helper.to_array(weights[name]).astype(np.float16)
                    added[name] = numpy_helper.from_array(half, name + SUFFIX)
                    node.input[k] = name + SUFFIX
                elif name in inputs and name in is_float:
                    raise ValueError(f"{name}: expected integer inputs before the body, got float")
                elif name in made_in_body:
                    node.input[k] = name + SUFFIX
            for k, name in enumerate(old.output):
                if name in made_in_body:
                    node.output[k] = name + SUFFIX
            _retype(node, numpy_helper, TensorProto)
        else:
            for name in old.input:
                if name in made_in_body and name not in widened:
                    widened.add(name)
                    nodes.append(helper.make_node("Cast", [name + SUFFIX], [name], to=TensorProto.FLOAT))
        nodes.append(node)
    for value in graph.output:
        if value.name in made_in_body and value.name not in widened:
            nodes.append(helper.make_node("Cast", [value.name + SUFFIX], [value.name], to=TensorProto.FLOAT))
    used = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    half_graph = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), [*kept, *added.values()])
    half_model = helper.make_model(half_graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    onnx.checker.check_model(half_model)
    return half_model


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
