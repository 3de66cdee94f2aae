"""The hand's skin: a closed smooth surface around a skeleton, moved by linear-blend skinning (Magnenat-Thalmann et al.
1988).

`build_skin` makes it from the bones: each is wrapped in a cone with rounded ends, palm and fingers grow together by a
smooth union of their distance functions (Quilez's polynomial minimum), and marching cubes takes the surface.
`rigged_hand` takes the skin of a file.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array
from fm_pose_core.hands.model.skeleton import FINGERS, RIGID, TIPS, Landmark, Skeleton, joint_sets
from fm_pose_core.rendering.mesh import Mesh

SPACING = 2.0e-3  # of the grid for marching cubes, metres
SKIN_COLOUR = (224, 172, 140)
BONES_PER_VERTEX = 4


@dataclass(frozen=True)
class Thickness:
    """Radii in metres: fingers at the joints MCP, PIP, DIP and at the tip, for the middle finger; `scale` multiplies
    all radii."""

    finger: tuple[float, float, float, float] = (0.0105, 0.0092, 0.0082, 0.0068)
    thumb: tuple[float, float, float, float] = (0.0150, 0.0120, 0.0105, 0.0085)
    palm: float = 0.0125
    forearm: tuple[float, float] = (0.0275, 0.0205)
    forearm_length: float = 0.12
    scale: float = 1.0


RELATIVE = {"index": 0.98, "middle": 1.0, "ring": 0.95, "pinky": 0.84}  # thickness of the fingers
CARPUS = (0.35, 0.12, 1.0)  # where the palm's piece below a finger begins, relative to the finger's first joint


class SkinnedHand:
    """A skeleton and a skin. vertices (V, 3) metres, in the camera's frame of the pose `bind` (6 + A,); faces (F, 3),
    weights (V, J): share of each bone, rows sum to one."""

    def __init__(
        self, skeleton: Skeleton, bind: Array, vertices: Array, faces: NDArray[np.int64], weights: Array
    ) -> None:
        self.skeleton, self.bind, self.vertices, self.faces, self.weights = skeleton, bind, vertices, faces, weights
        keep = np.argsort(-weights, axis=1)[:, :BONES_PER_VERTEX]
        shares = np.take_along_axis(weights, keep, 1)
        self.bones, self.shares = keep, shares / shares.sum(1, keepdims=True)
        R, t = skeleton.frames(bind[None])
        # What the vertex is in the frames of its bones, in homogeneous coordinates times the share: (V, 4 bones, 4).
        local = ((vertices[:, None] - t[0][keep])[..., None, :] @ R[0][keep])[..., 0, :]
        self._local = np.concatenate([local, np.ones((*keep.shape, 1))], -1) * self.shares[..., None]

    @cached_property
    def _blend(self) -> NDArray[np.float32]:
        """(V, 4 · J): vertices = _blend @ the frames stacked as rows (4 · J, 3)."""
        V, J = len(self.vertices), len(self.skeleton.bones)
        blend = np.zeros((V, J, 4), np.float32)
        for k in range(self.bones.shape[1]):
            np.add.at(blend, (np.arange(V), self.bones[:, k]), self._local[:, k].astype(np.float32))
        return blend.reshape(V, 4 * J)

    def reshaped(self, skeleton: Skeleton) -> "SkinnedHand":
        """The same skin on a skeleton with other bone lengths: each vertex stays where it is in the frames of its
        bones."""
        other = copy(self)
        other.skeleton = skeleton
        return other

    def posed(self, pose: Array) -> NDArray[np.float32]:
        """pose (6 + A,) or (B, 6 + A) -> vertices (V, 3) or (B, V, 3) in the camera's frame, metres, float32."""
        R, t = self.skeleton.frames(np.atleast_2d(pose))
        rows = np.concatenate([R.transpose(0, 1, 3, 2), t[:, :, None]], 2).reshape(len(R), -1, 3).astype(np.float32)
        result: NDArray[np.float32] = self._blend @ rows
        return result if np.ndim(pose) == 2 else result[0]

    def mesh(self, pose: Array) -> Mesh:
        """The skin in one pose, smoothly shaded."""
        vertices = self.posed(pose).astype(np.float64)
        colours = np.tile(np.array(SKIN_COLOUR, np.uint8), (len(vertices), 1))
        return Mesh(vertices, vertex_normals(vertices, self.faces), colours, self.faces)


def vertex_normals(vertices: Array, faces: NDArray[np.int64]) -> Array:
    """Unit normals (V, 3), weighted by the faces' areas."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, k], across[:, axis], len(vertices))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def build_skin(
    skeleton: Skeleton, thickness: Thickness | None = None, tips: dict[str, float] | None = None, faces: int = 4000
) -> SkinnedHand:
    """The skin of a skeleton. tips: length of the last bone of each finger, metres (default: an average hand's). faces:
    about so many."""
    from skimage.measure import marching_cubes

    th = thickness or Thickness()
    lengths = {finger: value * 1e-3 for finger, value in TIPS.items()} | (tips or {})
    bind = np.zeros(skeleton.size)
    for name, angle in (
        ("index_proximal_z", -9.0),
        ("ring_proximal_z", 6.0),
        ("pinky_proximal_z", 13.0),
        ("thumb_metacarpal_z", 12.0),
    ):
        bind[RIGID + skeleton.angles.index(name)] = np.radians(angle)
    pieces = _pieces(skeleton, bind, th, lengths)
    ends = np.concatenate([np.stack([p.a, p.b]) for p in pieces])
    low, high = ends.min(0) - 0.035, ends.max(0) + 0.035
    axes = [np.arange(a, b, SPACING) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    distance = _union(pieces, grid).reshape([len(a) for a in axes])
    vertices, triangles, _, _ = marching_cubes(distance, 0.0, spacing=(SPACING,) * 3)
    mesh = Mesh(
        vertices + low, np.zeros_like(vertices), np.zeros((len(vertices), 3), np.uint8), triangles.astype(np.int64)
    )
    mesh = mesh.simplified(faces)
    return SkinnedHand(skeleton, bind, mesh.vertices, mesh.faces, _weights(pieces, mesh.vertices, len(skeleton.bones)))


@dataclass(frozen=True)
class _Piece:
    """A cone with rounded ends from a to b (3,), radii ra and rb, flattened by `flat` along `normal`; of a bone, in a
    group: "palm" or a finger. blend: how far its weight reaches into its neighbours, metres."""

    group: str
    bone: int
    a: Array
    b: Array
    ra: float
    rb: float
    normal: Array
    flat: float
    blend: float

    def distance(self, x: Array) -> Array:
        """Signed distance of points (N, 3), exact for a round piece but for the cone's slope."""
        along = self.b - self.a
        rel = x - self.a
        h = np.clip(rel @ along / max(along @ along, 1e-12), 0.0, 1.0)
        away = rel - h[:, None] * along
        if self.flat != 1.0:
            away = away + ((1.0 / self.flat - 1.0) * (away @ self.normal))[:, None] * self.normal
        return np.linalg.norm(away, axis=1) - (self.ra + h * (self.rb - self.ra))


class _Layout:
    """Where the pieces of a hand lie: `skeleton` in the pose `bind`."""

    def __init__(self, skeleton: Skeleton, bind: Array, thickness: Thickness, tips: dict[str, float]) -> None:
        R, t = skeleton.frames(bind[None])
        self.skeleton, self.thickness, self.tips, self.R, self.t = skeleton, thickness, tips, R[0], t[0]
        self.mirror = np.array([-1.0 if skeleton.left else 1.0, 1.0, 1.0])

    def at(self, bone: str, *offset: float) -> Array:
        """A point (3,): `offset` in the frame of a right hand's bone."""
        k = self.skeleton.names.index(bone)
        return self.t[k] + self.R[k] @ (np.array(offset) * self.mirror)

    def along(self, finger: str, bones: Sequence[str], tip_radius: float) -> list[Array]:
        """Where the bones of a finger begin, and where the last one's round end has its centre."""
        return [self.at(b, 0, 0, 0) for b in bones] + [self.at(bones[-1], 0, self.tips[finger] - tip_radius, 0)]

    def piece(
        self,
        group: str,
        bone: str,
        ends: tuple[Array, Array],
        radii: tuple[float, float],
        blend: float,
        flat: float = 1.0,
    ) -> _Piece:
        normal, index = self.R[0][:, 2], self.skeleton.names.index(bone)
        return _Piece(group, index, *ends, *radii, normal, flat, blend)


def _pieces(skeleton: Skeleton, bind: Array, th: Thickness, tips: dict[str, float]) -> list[_Piece]:
    layout = _Layout(skeleton, bind, th, tips)
    fingers = [piece for finger in FINGERS[1:] for piece in _finger(layout, finger)]
    return [*fingers, *_thumb(layout), _heel(layout), *_forearm(layout)]


def _finger(layout: _Layout, finger: str) -> list[_Piece]:
    """Its three bones, and the palm below it."""
    th = layout.thickness
    r = [x * RELATIVE[finger] * th.scale for x in th.finger]
    bones = [f"{finger}_{part}" for part in ("proximal", "middle", "distal")]
    joints = layout.along(finger, bones, r[3])
    pieces = [layout.piece(finger, b, (joints[k], joints[k + 1]), (r[k], r[k + 1]), 0.003) for k, b in enumerate(bones)]
    metacarpal = f"{finger}_metacarpal"
    start = layout.at(metacarpal, *(layout.skeleton.bones[layout.skeleton.names.index(bones[0])].offset * CARPUS))
    radii = (th.palm * 1.12 * th.scale, r[0] * 1.12)
    return [*pieces, layout.piece("palm", metacarpal, (start, joints[0]), radii, 0.008)]


def _thumb(layout: _Layout) -> list[_Piece]:
    """Its ball, which is of the palm, its two other bones, and the web to the index finger."""
    s = layout.thickness.scale
    r = [x * s for x in layout.thickness.thumb]
    bones = ["thumb_metacarpal", "thumb_proximal", "thumb_distal"]
    joints = layout.along("thumb", bones, r[3])
    ball = layout.piece("palm", bones[0], (joints[0], joints[1]), (r[0], r[1] * 1.08), 0.010)
    rest = [layout.piece("thumb", bones[k], (joints[k], joints[k + 1]), (r[k], r[k + 1]), 0.003) for k in (1, 2)]
    middle = 0.55 * joints[1] + 0.45 * joints[0]
    beside = 0.45 * layout.at("palm", 0, 0.02, 0) + 0.55 * layout.at("index_proximal", 0, 0, 0)
    return [ball, *rest, layout.piece("palm", bones[0], (middle, beside), (0.0085 * s, 0.0075 * s), 0.012)]


def _heel(layout: _Layout) -> _Piece:
    """The ball of the palm on the little finger's side."""
    s = layout.thickness.scale
    ends = layout.at("palm", -0.020, 0.018, 0.007), layout.at("palm", -0.030, 0.055, 0.006)
    return layout.piece("palm", "palm", ends, (0.0125 * s, 0.0115 * s), 0.008)


def _forearm(layout: _Layout) -> list[_Piece]:
    """Two cones, one beside the other."""
    th = layout.thickness
    half, radii = (th.forearm[0] - th.forearm[1]) * th.scale, (0.019 * th.scale, th.forearm[1] * th.scale)
    pieces = []
    for side in (-1.0, 1.0):
        ends = (
            layout.at("forearm", side * half, 0.012, 0),
            layout.at("forearm", side * half * 1.3, th.forearm_length, 0),
        )
        pieces.append(layout.piece("palm", "forearm", ends, radii, 0.012, flat=0.95))
    return pieces


def _union(pieces: Sequence[_Piece], x: Array) -> Array:
    """The palm's pieces grow together widely, each finger with the palm closely, and fingers not with each other."""
    groups: dict[str, list[_Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.group, []).append(piece)

    def join(parts: Sequence[_Piece], reach: float) -> Array:
        d = parts[0].distance(x)
        for piece in parts[1:]:
            d = _smooth_minimum(d, piece.distance(x), reach)
        return d

    palm = join(groups["palm"], 0.012)
    result = palm
    for finger in FINGERS:
        result = np.minimum(result, _smooth_minimum(palm, join(groups[finger], 0.002), 0.006))
    return result


def _smooth_minimum(a: Array, b: Array, reach: float) -> Array:
    h = np.maximum(reach - np.abs(a - b), 0.0) / reach
    return np.minimum(a, b) - h * h * reach * 0.25


def _weights(pieces: Sequence[_Piece], vertices: Array, bones: int) -> Array:
    weights = np.zeros((len(vertices), bones))
    distances = np.stack([p.distance(vertices) for p in pieces], 1)
    nearest = distances.min(1)
    own = np.full(len(vertices), np.inf)  # distance to the nearest finger: a vertex belongs to one finger at most
    for k, piece in enumerate(pieces):
        if piece.group != "palm":
            own = np.minimum(own, distances[:, k])
    groups = {
        finger: np.min([distances[:, k] for k, p in enumerate(pieces) if p.group == finger], 0) for finger in FINGERS
    }
    for k, piece in enumerate(pieces):
        w = np.exp(-((np.maximum(distances[:, k] - nearest, 0.0) / piece.blend) ** 2))
        if piece.group != "palm":
            w = np.where(groups[piece.group] > own, 0.0, w)
        weights[:, piece.bone] = np.maximum(weights[:, piece.bone], w)
    weights[weights < 0.02] = 0.0
    return weights / weights.sum(1, keepdims=True)


def tips_of(landmarks: Sequence[Landmark]) -> dict[str, float]:
    """Lengths of the last bones, metres: as much longer or shorter than an average hand's as the landmarks on the
    finger tips are."""
    average = {x.name: x for joint_set in joint_sets().values() for x in joint_set}
    names = {x.name for x in landmarks}
    own = next((s for s in joint_sets().values() if {x.name for x in s} == names), ())
    average |= {x.name: x for x in own}
    return {
        x.name.removesuffix("_tip"): TIPS[x.name.removesuffix("_tip")]
        * 1e-3
        * float(x.offset[1] / average[x.name].offset[1])
        for x in landmarks
        if x.name.endswith("_tip")
    }
