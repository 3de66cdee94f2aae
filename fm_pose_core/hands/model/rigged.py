"""A rigged hand from a GLB file in the place of our own skin: its joints are found by name through a mapping."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fm_pose_core.document import Document, parse_document
from fm_pose_core.errors import expect
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
    nodes = [str(n.get("name", "").value) for n in gltf["nodes"].elements()]
    world = _world_transforms(gltf)
    vertices, faces, shares = _skin(gltf, data, world)
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


def _skin(gltf: Document, data: bytes, world: list[Array]) -> tuple[Array, NDArray[np.int64], Array]:
    """Vertices (V, 3) metres where the nodes stand now, which is usually where they were bound; faces (F, 3); how much
    each node moves each vertex (V, nodes)."""
    skins, nodes = gltf["skins"].elements(), gltf["nodes"].elements()
    expect(len(skins) == 1, f"{gltf.where}: skins", "one skin", len(skins))
    skinned = [n for n in nodes if "skin" in n]
    expect(bool(skinned), gltf.where, "a node with a skin", "none")
    primitive = _at(gltf, "meshes", skinned[0]["mesh"])["primitives"].elements()[:1]
    expect(bool(primitive), gltf.where, "a mesh with triangles", "none")
    attributes = primitive[0]["attributes"]
    names = ("POSITION", "JOINTS_0", "WEIGHTS_0")
    vertices, of, share = (_accessor(gltf, data, attributes[name]).astype(np.float64) for name in names)
    fits = vertices.shape[1] == 3 and len(vertices) == len(of) == len(share) and of.shape == share.shape
    expect(fits, attributes.where, "three coordinates, and joints with weights, of each vertex", "others")
    finite = all(bool(np.isfinite(x).all()) for x in (vertices, of, share))
    expect(finite, attributes.where, "finite numbers", "others")
    indices = _accessor(gltf, data, primitive[0]["indices"]).astype(np.int64).ravel()
    expect(len(indices) % 3 == 0, primitive[0].where, "triangles", f"{len(indices)} indices")
    in_mesh = bool((indices >= 0).all() and (indices < len(vertices)).all())
    expect(in_mesh, primitive[0].where, f"indices below {len(vertices)}", "others")
    joints = np.array([x.whole() for x in skins[0]["joints"].elements()], dtype=np.int64)
    bind = _accessor(gltf, data, skins[0]["inverseBindMatrices"]).astype(np.float64)
    known = bind.shape == (len(joints), 16) and bool(np.isfinite(bind).all() and (joints < len(nodes)).all())
    expect(known, skins[0].where, "nodes of the file, and a matrix of each", f"{len(joints)} and {bind.shape}")
    expect(bool((of < len(joints)).all()), attributes.where, f"joints below {len(joints)}", "others")
    of = of.astype(np.int64)
    now = np.stack([world[j] for j in joints]) @ bind.reshape(-1, 4, 4).transpose(0, 2, 1)
    homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], 1)
    moved = np.einsum("vk,vkij,vj->vi", share, now[of], homogeneous)[:, :3]
    shares = np.zeros((len(vertices), len(nodes)))
    for k in range(of.shape[1]):
        shares[np.arange(len(shares)), joints[of[:, k]]] += share[:, k]
    return moved, indices.reshape(-1, 3), shares


def _fitted(path: Path, joints: Array, left: bool) -> tuple[Skeleton, Array]:
    """Our skeleton with the bone lengths of the file's, and its pose (6 + A,), from the joints (21, 3), metres."""
    skeleton, landmarks = fit_shape(Skeleton(left=left), joint_sets()["hand21"], joints[None], 20, stiffness=1e-4)
    fit = fit_poses(skeleton, landmarks, joints[None], prior=1e-4)
    worst = float(fit.residuals(joints[None]).max())
    side = "left" if left else "right"
    expect(worst < 0.02, str(path), f"joints of a {side} hand in metres", f"one that is {1e3 * worst:.0f} mm off")
    return skeleton, fit.pose[0]


def _read_glb(path: Path) -> tuple[Document, bytes]:
    """The JSON, and the binary data behind it."""
    expect(path.is_file(), str(path), "a GLB file", "nothing there")
    content = path.read_bytes()
    expect(content[:4] == b"glTF" and len(content) > 20, str(path), "a GLB file", "another header")
    (length,) = struct.unpack_from("<I", content, 12)
    return parse_document(content[20 : 20 + length], str(path)), content[20 + length + 8 :]


def _at(gltf: Document, what: str, index: Document) -> Document:
    """The element of a list of the file that an index names."""
    elements, k = gltf[what].elements(), index.whole()
    expect(k < len(elements), index.where, f"a number below {len(elements)}, of {what}", k)
    return elements[k]


def _accessor(gltf: Document, data: bytes, index: Document) -> NDArray[np.generic]:
    """(count, width): numbers of the binary data."""
    a = _at(gltf, "accessors", index)
    view = _at(gltf, "bufferViews", a["bufferView"])
    kinds, number = (a["type"].value, a["componentType"].value)
    known = isinstance(kinds, str) and kinds in _WIDTHS and isinstance(number, int) and number in _TYPES
    expect(known, a.where, "a type and a componentType of glTF", (kinds, number))
    width, kind, count = _WIDTHS[kinds], np.dtype(_TYPES[number]), a["count"].whole()
    start = view.get("byteOffset", 0).whole() + a.get("byteOffset", 0).whole()
    stride = view.get("byteStride", width * kind.itemsize).whole()
    end = start + (count - 1) * stride + width * kind.itemsize
    inside = count > 0 and stride >= width * kind.itemsize and end <= len(data)
    expect(inside, a.where, f"numbers within {len(data)} bytes", f"{count} x {width} from {start}, {stride} apart")
    rows: NDArray[np.generic] = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize))
    return rows


def _world_transforms(gltf: Document) -> list[Array]:
    """(4, 4) of each node."""
    nodes = gltf["nodes"].elements()
    parent: dict[int, int] = {}
    for i, n in enumerate(nodes):
        for child in n.get("children", []).elements():
            k = child.whole()
            expect(k < len(nodes) and k not in parent, child.where, "a node of the file with one parent", k)
            parent[k] = i
    local, result = [_local_transform(n) for n in nodes], []
    for i, n in enumerate(nodes):
        T, above = local[i], [i]
        while above[-1] in parent:
            above.append(parent[above[-1]])
            expect(len(above) <= len(nodes), n.where, "a node that is not its own ancestor", "a loop")
            T = local[above[-1]] @ T
        result.append(T)
    return result


def _local_transform(n: Document) -> Array:
    if "matrix" in n:
        return n["matrix"].numbers(4, 4).T
    q = n.get("rotation", [0, 0, 0, 1]).numbers(4)
    expect(float(np.linalg.norm(q)) > 1e-6, n.where, "a rotation", q.tolist())
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(q).as_matrix() * n.get("scale", [1, 1, 1]).numbers(3)
    T[:3, 3] = n.get("translation", [0, 0, 0]).numbers(3)
    return T
