"""A bundle for hands whose network is a handful of ONNX operators with known answers: the joints stand around the mean
of what the window shows, in a fixed pattern.

    bundle = write_toy_hand(folder)
    depth = toy_depth(camera, center)               # (H, W) float32 metres: a ball before a wall
    joints = toy_joints(depth, camera)              # the truth for it
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm_pose_core.bundle import NetworkFile
from fm_pose_core.contract import hand_contract
from fm_pose_core.geometry import Array
from fm_pose_core.hands.bundle import HandEntry, write_hand_bundle
from fm_pose_core.hands.crop import HandCrop, HandCropConfig
from fm_pose_core.hands.frames import NyuWriter
from fm_pose_core.hands.locate import find_hand
from fm_pose_core.hands.model.skeleton import joint_sets, skeleton_bones
from fm_pose_core.types import Camera

NAMES = tuple(x.name for x in joint_sets()["nyu14"])
CROP = HandCropConfig(64, 0.3)
RADIUS = 0.05
PATTERN = np.random.default_rng(3).uniform(-0.05, 0.05, (len(NAMES), 3))  # metres, about the mean of the window
SPREAD = 0.004
ENTRY = HandEntry("toy_hand", NAMES, skeleton_bones("nyu14"), False, CROP.cube, CROP.size)


def toy_depth(camera: Camera, center: Array, radius: float = RADIUS, wall: float = 2.0) -> np.ndarray:
    """A ball before a wall that is out of the depth range."""
    v, u = np.mgrid[: camera.height, : camera.width]
    rays = camera.rays(np.stack([u, v], -1)).reshape(*u.shape, 3)
    a, b = (rays**2).sum(-1), rays @ np.asarray(center)
    inside = b**2 - a * (np.dot(center, center) - radius**2)
    depth = np.full(u.shape, wall)
    depth[inside > 0] = ((b - np.sqrt(np.maximum(inside, 0))) / a)[inside > 0]
    return depth.astype(np.float32)


def toy_joints(depth: np.ndarray, camera: Camera) -> Array:
    """(14, 3) metres: what the toy network says, computed without it."""
    ((center, _, _),) = find_hand(depth, camera, cube=CROP.cube)
    window = HandCrop(CROP).cut(depth, camera, center)
    mean_z = float(np.minimum(window, 1.0)[window < 1].mean()) * CROP.cube / 2
    return center + PATTERN + [0.0, 0.0, mean_z]


def toy_network() -> bytes:
    """The ONNX file: the mean of the window's foreground moves the pattern along z; without any, the spread is huge."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, value: object, dtype: type = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)

    node = helper.make_node
    constants = [
        constant("one", 1.0),
        constant("near_one", 0.99999),
        constant("axes", [1, 2], np.int64),
        constant("least", 1.0),
        constant("pattern", PATTERN[None]),
        constant("z", [[[0.0, 0.0, CROP.cube / 2]]]),
        constant("spread_value", np.full((1, len(NAMES), 3), SPREAD)),
        constant("huge", 10.0),
        constant("zero", 0.0),
    ]
    nodes = [
        node("Less", ["image", "near_one"], ["is_hand"]),
        node("Cast", ["is_hand"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["image", "mask"], ["kept"]),
        node("ReduceSum", ["kept", "axes"], ["total"], keepdims=0),  # (N, 1)
        node("ReduceSum", ["mask", "axes"], ["count"], keepdims=0),
        node("Max", ["count", "least"], ["divisor"]),
        node("Div", ["total", "divisor"], ["mean"]),
        node("Unsqueeze", ["mean", "last"], ["mean3"]),  # (N, 1, 1)
        node("Mul", ["mean3", "z"], ["shift"]),
        node("Add", ["pattern", "shift"], ["joints"]),
        node("Sub", ["one", "count"], ["missing"]),
        node("Max", ["missing", "zero"], ["none"]),
        node("Mul", ["none", "huge"], ["doubt"]),
        node("Unsqueeze", ["doubt", "last"], ["doubt3"]),
        node("Add", ["spread_value", "doubt3"], ["spread"]),
    ]
    constants.append(constant("last", [2], np.int64))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", CROP.size, CROP.size, 1])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(NAMES), 3]) for name in ("joints", "spread")
    ]
    graph = helper.make_graph(nodes, "toy_hand", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def write_nyu(folder: Path, depths: Sequence[np.ndarray], joints: Array) -> None:
    """One split in NYU's layout: depths (H, W) metres, joints (N, 14, 3) metres in the frame of NYU's camera."""
    writer = NyuWriter(folder)
    for depth in depths:
        writer.add(depth)
    writer.finish(joints)


def write_toy_hand(path: Path) -> Path:
    """Write the toy bundle and return its folder."""
    contract = hand_contract(len(NAMES), CROP.size, CROP.cube)
    network = NetworkFile(toy_network(), {"name": "toy"}, contract, training={"note": "not trained"})
    return write_hand_bundle(path, network, ENTRY).path
