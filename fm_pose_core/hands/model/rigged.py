"""A rigged hand from a GLB file in the place of our own skin: its joints are found by name through a mapping."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    names = [n.get("name", "") for n in gltf["nodes"]]
    world = _world_transforms(gltf)
    landmarks = joint_sets()["hand21"]
    wanted = mapping["joints"]
    missing = [str(wanted.get(x.name)) for x in landmarks if wanted.get(x.name) not in names]
    expect(not missing, str(path), "nodes for all 21 joints", f"none named {', '.join(missing[:4])}")
    joints = np.stack([world[names.index(wanted[x.name])][:3, 3] for x in landmarks])[None]

    expect(len(gltf.get("skins", [])) == 1, str(path), "one skin", len(gltf.get("skins", [])))
    skin = gltf["skins"][0]
    node = next(n for n in gltf["nodes"] if "skin" in n)
    attributes = gltf["meshes"][node["mesh"]]["primitives"][0]
    vertices = _accessor(gltf, data, attributes["attributes"]["POSITION"]).astype(np.float64)
    faces = _accessor(gltf, data, attributes["indices"]).reshape(-1, 3).astype(np.int64)
    of = _accessor(gltf, data, attributes["attributes"]["JOINTS_0"]).astype(int)
    share = _accessor(gltf, data, attributes["attributes"]["WEIGHTS_0"]).astype(np.float64)
    inverse_bind = (
        _accessor(gltf, data, skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)
    )
    # To where the nodes stand now, which is usually where they were bound.
    now = np.stack([world[j] for j in skin["joints"]]) @ inverse_bind
    homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], 1)
    vertices = np.einsum("vk,vkij,vj->vi", share, now[of], homogeneous)[:, :3]

    skeleton = Skeleton(left=left)
    skeleton, landmarks = fit_shape(skeleton, landmarks, joints, rounds=20, stiffness=1e-4)
    fit = fit_poses(skeleton, landmarks, joints, prior=1e-4)
    worst = float(fit.residuals(joints).max())
    expect(
        worst < 0.02,
        str(path),
        "joints of a " + ("left" if left else "right") + " hand in metres",
        f"one that is {1e3 * worst:.0f} mm off",
    )
    weights = np.zeros((len(vertices), len(skeleton.bones)))
    bone_of = {
        names.index(n): skeleton.names.index(b) for b, nodes in mapping["bones"].items() for n in nodes if n in names
    }
    for k in range(of.shape[1]):
        for v, (j, w) in enumerate(zip(of[:, k], share[:, k], strict=True)):
            if w > 0:
                expect(
                    skin["joints"][j] in bone_of, str(path), "a bone for each node with skin", names[skin["joints"][j]]
                )
                weights[v, bone_of[skin["joints"][j]]] += w
    return SkinnedHand(skeleton, fit.pose[0], vertices, faces, weights)


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
        x, y, z, w = n.get("rotation", (0, 0, 0, 1))
        R = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
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
