"""A rigged hand from a GLB file in the place of our own skin: its joints are found by name through a mapping."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.model.fitting import fit_poses, fit_shape
from fm_pose_core.hands.model.skeleton import Skeleton, joint_sets
from fm_pose_core.hands.model.skin import SkinnedHand

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def rigged_hand(path: str | Path, mapping: Mapping[str, Any], left: bool = False) -> SkinnedHand:
    """The hand in a GLB file (glTF 2.0, metres). mapping: `joints`, our hand21 name -> the file's node; `bones`, our
    bone -> the file's nodes whose skin it moves. Our skeleton takes the bone lengths and the rest pose of the file's.
    Raises InputError."""
    path = Path(path)
    gltf, data = _read_glb(path)
    nodes = [n.get("name", "") for n in gltf["nodes"]]
    world = _world_transforms(gltf)
    vertices, faces, shares = _skin(path, gltf, data, world)
    skeleton, pose = _fitted(path, _joints(path, nodes, world, mapping["joints"]), left)
    weights = np.zeros((len(vertices), len(skeleton.bones)))
    bone_of = {n: skeleton.names.index(bone) for bone, names in mapping["bones"].items() for n in names}
    for node in np.nonzero(shares.any(0))[0]:
        expect(nodes[node] in bone_of, str(path), "a bone for each node with skin", nodes[node])
        weights[:, bone_of[nodes[node]]] += shares[:, node]
    return SkinnedHand(skeleton, pose, vertices, faces, weights)


def _joints(path: Path, nodes: list[str], world: list[Array], wanted: Mapping[str, str]) -> Array:
    """Where the nodes of our 21 joints stand (21, 3), metres."""
    names = [wanted.get(x.name) for x in joint_sets()["hand21"]]
    missing = [str(n) for n in names if n not in nodes]
    expect(not missing, str(path), "nodes for all 21 joints", f"none named {', '.join(missing[:4])}")
    return np.stack([world[nodes.index(str(n))][:3, 3] for n in names])


def _skin(path: Path, gltf: dict[str, Any], data: bytes, world: list[Array]) -> tuple[Array, NDArray[np.int64], Array]:
    """Vertices (V, 3) metres where the nodes stand now, which is usually where they were bound; faces (F, 3); how much
    each node moves each vertex (V, nodes)."""
    expect(len(gltf.get("skins", [])) == 1, str(path), "one skin", len(gltf.get("skins", [])))
    skin = gltf["skins"][0]
    node = next(n for n in gltf["nodes"] if "skin" in n)
    primitive = gltf["meshes"][node["mesh"]]["primitives"][0]
    attributes = primitive["attributes"]
    vertices = _accessor(gltf, data, attributes["POSITION"]).astype(np.float64)
    of = _accessor(gltf, data, attributes["JOINTS_0"]).astype(int)
    share = _accessor(gltf, data, attributes["WEIGHTS_0"]).astype(np.float64)
    faces = _accessor(gltf, data, primitive["indices"]).reshape(-1, 3).astype(np.int64)
    inverse_bind = _accessor(gltf, data, skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    now = np.stack([world[j] for j in skin["joints"]]) @ inverse_bind.astype(np.float64)
    homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], 1)
    moved = np.einsum("vk,vkij,vj->vi", share, now[of], homogeneous)[:, :3]
    shares = np.zeros((len(vertices), len(gltf["nodes"])))
    for k in range(of.shape[1]):
        shares[np.arange(len(shares)), np.array(skin["joints"])[of[:, k]]] += share[:, k]
    return moved, faces, shares


def _fitted(path: Path, joints: Array, left: bool) -> tuple[Skeleton, Array]:
    """Our skeleton with the bone lengths of the file's, and its pose (6 + A,), from the joints (21, 3), metres."""
    skeleton, landmarks = fit_shape(Skeleton(left=left), joint_sets()["hand21"], joints[None], 20, stiffness=1e-4)
    fit = fit_poses(skeleton, landmarks, joints[None], prior=1e-4)
    worst = float(fit.residuals(joints[None]).max())
    side = "left" if left else "right"
    expect(worst < 0.02, str(path), f"joints of a {side} hand in metres", f"one that is {1e3 * worst:.0f} mm off")
    return skeleton, fit.pose[0]


def _read_glb(path: Path) -> tuple[dict[str, Any], bytes]:
    expect(path.is_file(), str(path), "a GLB file", "nothing there")
    content = path.read_bytes()
    expect(content[:4] == b"glTF" and len(content) > 20, str(path), "a GLB file", "another header")
    (length,) = struct.unpack_from("<I", content, 12)
    try:
        gltf = json.loads(content[20 : 20 + length])
    except ValueError as error:
        raise InputError(f"{path}: expected a GLB file, got broken JSON: {error}") from None
    return gltf, content[20 + length + 8 :]


def _accessor(gltf: dict[str, Any], data: bytes, index: int) -> NDArray[np.generic]:
    a = gltf["accessors"][index]
    view = gltf["bufferViews"][a["bufferView"]]
    width, kind = _WIDTHS[a["type"]], np.dtype(_TYPES[a["componentType"]])
    start = view.get("byteOffset", 0) + a.get("byteOffset", 0)
    stride = view.get("byteStride", width * kind.itemsize)
    rows: NDArray[np.generic] = np.ndarray((a["count"], width), kind, data, start, (stride, kind.itemsize))
    return rows


def _world_transforms(gltf: dict[str, Any]) -> list[Array]:
    local = []
    for n in gltf["nodes"]:
        if "matrix" in n:
            local.append(np.array(n["matrix"]).reshape(4, 4).T)
            continue
        R = Rotation.from_quat(n.get("rotation", (0, 0, 0, 1))).as_matrix()
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R * np.array(n.get("scale", (1, 1, 1))), n.get("translation", (0, 0, 0))
        local.append(T)
    parent = {c: i for i, n in enumerate(gltf["nodes"]) for c in n.get("children", ())}
    result = []
    for i in range(len(local)):
        T, k = local[i], parent.get(i)
        while k is not None:
            T, k = local[k] @ T, parent.get(k)
        result.append(T)
    return result
