"""The weights in a bundle's network by the names of the torch parameters, which its initialisers carry."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import InputError


def named_weights(file: Path) -> dict[str, NDArray[np.generic]]:
    """Every initialiser of an ONNX file by each of its names. Raises InputError if it is no such file.

    torch.onnx stores equal parameters once, and names the others by Identity nodes; fp16 weights have a Cast behind
    them."""
    import onnx

    try:
        graph = onnx.load(str(file)).graph
    except Exception as error:  # protobuf's DecodeError, whose package need not be named here
        raise InputError(f"{file}: expected an ONNX file, got {error}") from None
    stored = {x.name: x for x in graph.initializer}
    for node in graph.node:  # sorted topologically, so that an alias of an alias is found as well
        if node.op_type in ("Identity", "Cast") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    return {name: onnx.numpy_helper.to_array(x) for name, x in stored.items()}
