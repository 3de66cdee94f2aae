"""A bundle whose network is a handful of ONNX operators with known answers: it finds a bright red or white blob and
says that the toy box stands there, DISTANCE away, turned by ROTATION.

    bundle = write_toy_bundle(folder)                 # pathlib.Path
    T = toy_pose(camera, u, v)                        # the truth for a blob at pixel (u, v), window centred on it
    image = toy_image(camera, u, v)                   # (H, W, 3) uint8 RGB with that blob

The estimate for `Window(u, v)` equals `toy_pose(camera, u, v)` to interpolation error. Without a blob (or a blue one:
swapped channels) the network returns corners that no pose explains, so that the estimate is not accepted.
"""

import os
from pathlib import Path

import numpy as np

from fm_pose_core.bundle import NetworkFile
from fm_pose_core.contract import detector_contract, object_contract
from fm_pose_core.geometry import Array, box_corners, exp_so3, project, rotation_looking_along, transform
from fm_pose_core.objects.bundle import ObjectInBundle, write_object_bundle
from fm_pose_core.objects.crop import Crop
from fm_pose_core.types import Camera

MINIMUM, MAXIMUM = np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06])  # metres, object frame
CENTER = (MINIMUM + MAXIMUM) / 2
DIAMETER = float(np.linalg.norm(MAXIMUM - MINIMUM))
DISTANCE = 0.5  # metres from the camera to the box's centre
ROTATION = exp_so3(np.array([0.6, -0.9, 0.4]))  # of the object, in the frame of the window
CROP = Crop.around(DIAMETER, nearest=0.4)
SPREAD = 0.5  # pixels
DETECTOR_SIZE = 320  # pixels
BLOB = 0.02  # radius of the drawn blob, radians
LOG_DEPTH = 1.75  # that the toy detector answers, if it does


def toy_pose(camera: Camera, u: float, v: float) -> Array:
    """T_camera_object (4, 4) that the toy network means for a blob, and a window, at image pixel (u, v)."""
    R_camera_window = rotation_looking_along(camera.rays(np.array([[u, v]]))[0])
    return transform(R_camera_window @ ROTATION, R_camera_window @ (np.array([0.0, 0.0, DISTANCE]) - ROTATION @ CENTER))


def toy_image(
    camera: Camera, u: float, v: float, color: tuple[int, int, int] = (255, 40, 40), background: int = 30
) -> np.ndarray:
    """(H, W, 3) uint8: a soft round blob, symmetric about the ray through (u, v), on grey."""
    rows, columns = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    rays = camera.rays(np.column_stack([columns.ravel(), rows.ravel()]))
    axis = camera.rays(np.array([[u, v]]))[0]
    cosine = rays @ axis / (np.linalg.norm(rays, axis=1) * np.linalg.norm(axis))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0)).reshape(camera.height, camera.width, 1)
    alpha = np.clip(2.0 * (1.0 - angle / BLOB), 0.0, 1.0)
    return np.rint(background + alpha * (np.array(color) - background)).astype(np.uint8)


def toy_network(objects: int = 1) -> bytes:
    """The ONNX file: corners follow the centroid of the blob as the box's would if it moved sideways. objects: how many
    the network knows; it says the same of all."""
    from onnx import TensorProto, checker, helper, numpy_helper

    size, middle = CROP.size, (CROP.size - 1) / 2
    # Corners in the frame of the window.
    p = (box_corners(MINIMUM, MAXIMUM) - CENTER) @ ROTATION.T + [0.0, 0.0, DISTANCE]
    at_middle = project(CROP.K, p)  # (8, 2)
    follow = DISTANCE / p[:, 2:]  # (8, 1): a corner nearer than the centre moves more
    impossible = at_middle[[0, 7, 3, 4, 5, 2, 6, 1]]  # the nearest pose is 35 window pixels off
    v, u = np.mgrid[:size, :size]
    grid = np.stack([u, v], -1).reshape(-1, 2) - middle

    def constant(name: str, value: object, dtype: type = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)

    constants = [
        constant("weigh", [[1.0], [0.0], [-0.5]]),
        constant("threshold", 60.0),
        constant("pixels", [0, size * size, 3], np.int64),
        constant("grid", grid),
        constant("least", 1.0),
        constant("middle_axes", [1], np.int64),
        constant("at_middle", at_middle[None]),
        constant("follow", follow[None]),
        constant("impossible", impossible[None]),
        constant("spread_value", np.full((1, 8, 2), SPREAD)),
        constant("zero", 0.0),
        constant("object_axis", [1], np.int64),
        constant("times", [1, objects, 1, 1], np.int64),
    ]
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        node("Reshape", ["floats", "pixels"], ["rgb"]),  # (N, S·S, 3)
        node("MatMul", ["rgb", "weigh"], ["brightness"]),
        node("Sub", ["brightness", "threshold"], ["above"]),
        node("Relu", ["above"], ["weight"]),  # (N, S·S, 1)
        node("ReduceSum", ["weight", "middle_axes"], ["mass"]),  # (N, 1, 1)
        node("Max", ["mass", "least"], ["divisor"]),
        node("Mul", ["weight", "grid"], ["moments"]),
        node("ReduceSum", ["moments", "middle_axes"], ["moment"]),  # (N, 1, 2)
        node("Div", ["moment", "divisor"], ["centroid"]),
        node("Mul", ["centroid", "follow"], ["shift"]),  # (N, 8, 2)
        node("Add", ["at_middle", "shift"], ["found"]),
        node("Greater", ["mass", "least"], ["present"]),
        node("Where", ["present", "found", "impossible"], ["of_one"]),
        node("Unsqueeze", ["of_one", "object_axis"], ["of_each"]),
        node("Tile", ["of_each", "times"], ["corners"]),  # (N, objects, 8, 2)
        node("Mul", ["corners", "zero"], ["nothing"]),
        node("Add", ["nothing", "spread_value"], ["spread"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])
    shape = ["N", objects, 8, 2]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("corners", "spread")]
    graph = helper.make_graph(nodes, "toy", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def toy_detector(objects: int = 1, depth: bool = False) -> bytes:
    """The ONNX file of a detector: the brighter a cell of 8×8 pixels is in red, the likelier is each object there, and
    its centre is the cell's middle. depth: whether it answers LOG_DEPTH everywhere."""
    from onnx import TensorProto, checker, helper, numpy_helper

    side = DETECTOR_SIZE // 8
    middles = (np.arange(side) + 0.5) * 8 - 0.5
    centres = np.stack(np.meshgrid(middles, middles), -1).reshape(1, -1, 2).astype(np.float32)
    weights = np.zeros((1, 3, 8, 8), np.float32)
    weights[0, 0], weights[0, 2] = 1.0 / 64, -0.5 / 64  # red without blue
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([-45.0], np.float32), "bias"),
        numpy_helper.from_array(np.array(0.2, np.float32), "slope"),
        numpy_helper.from_array(np.array([0, 1, side * side], np.int64), "row"),
        numpy_helper.from_array(np.array([3], np.int64), "last_axis"),
        numpy_helper.from_array(np.array([1, objects, 1], np.int64), "times"),
        numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
        numpy_helper.from_array(centres, "centres"),
    ]
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "weights", "bias"], ["bright"], strides=[8, 8]),
        node("Mul", ["bright", "slope"], ["logit"]),
        node("Sigmoid", ["logit"], ["probable"]),
        node("Reshape", ["probable", "row"], ["of_one"]),
        node("Tile", ["of_one", "times"], ["heat"]),  # (N, objects, L)
        node("Mul", ["heat", "zero"], ["nothing"]),
        node("Unsqueeze", ["nothing", "last_axis"], ["no_offset"]),
        node("Add", ["centres", "no_offset"], ["centre"]),  # (N, objects, L, 2)
    ]
    shapes: dict[str, list[str | int]] = {"centre": ["N", objects, side * side, 2], "heat": ["N", objects, side * side]}
    if depth:
        constants.append(numpy_helper.from_array(np.full((1, side * side), LOG_DEPTH, np.float32), "log_depth"))
        nodes.append(node("Add", ["log_depth", "nothing"], ["depth"]))  # (N, objects, L)
        shapes["depth"] = ["N", objects, side * side]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", DETECTOR_SIZE, DETECTOR_SIZE, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "toy_detector", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def toy_mesh() -> bytes:
    """The box as an ASCII PLY, metres."""
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lines = ["ply", "format ascii 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyz")]
    lines += ["element face 12", "property list uchar int vertex_indices", "end_header"]
    lines += [" ".join(f"{x:g}" for x in corner) for corner in box_corners(MINIMUM, MAXIMUM)]
    lines += [f"3 {a} {b} {c}\n3 {a} {c} {d}" for a, b, c, d in faces]
    return ("\n".join(lines) + "\n").encode()


def write_toy_bundle(
    path: str | os.PathLike,
    names: tuple[str, ...] = ("toy_box",),
    detector: bool = False,
    depth: bool = False,
    mesh: bool = True,
) -> Path:
    """Write the toy bundle to the folder `path` and return that path. names: of the objects, all of them toy boxes with
    the ids 1, 2, … detector: whether it has one; depth: whether that one tells how far away they are. mesh: whether it
    has the objects' meshes."""
    contract = object_contract(CROP.size, len(names))
    network = NetworkFile(toy_network(len(names)), {"name": "toy"}, contract, training={"note": "not trained"})
    objects = [
        ObjectInBundle(name, i + 1, MINIMUM, MAXIMUM, DIAMETER, CROP.focal, mesh=toy_mesh() if mesh else None)
        for i, name in enumerate(names)
    ]
    if not detector:
        return write_object_bundle(Path(path), network, objects).path
    answers = detector_contract(DETECTOR_SIZE, len(names), (DETECTOR_SIZE // 8) ** 2, depth)
    finder = NetworkFile(toy_detector(len(names), depth), {"name": "toy"}, answers)
    return write_object_bundle(Path(path), network, objects, {"detector": finder}).path
