"""Where the hand is in a depth map: the nearest thing, or an end of it. What cannot be told from the depth alone is left as candidates to the
network (beyond the paper, which takes the cube from the annotations)."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.geometry import Array
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]
MASS = 2 / 3  # of the cube's side: the centre of mass is that of what lies within; less of the forearm than the cube holds
HAND = 0.6  # of the cube's side: the length of a hand
ABREAST = 0.10  # metres: the second nearest thing may be the hand if it is not farther behind the nearest,
HANDICAP = 1.6  # and looks so much more like one
JUMP = 0.02  # metres: between neighbouring pixels, where one thing ends and another begins


@dataclass(frozen=True)
class SearchConfig:
    """Where the hand is looked for: the nearest thing that is large enough."""

    nearest: float = knob(0.15, "Nearest depth at which a hand is looked for, metres.", 0.01, 20.0)
    farthest: float = knob(1.5, "Farthest depth, metres.", 0.01, 20.0)
    smallest: float = knob(0.0025, "Smallest visible area of a hand, square metres.", 1e-4, 1.0)


class Candidate(NamedTuple):
    """Where the hand may be. center (3,): of the cube, metres. depth (H, W): the depth map with holes where other things are seen that are
    larger than the cube, such as a body or a wall. handicap: times which its expected error counts."""

    center: Array
    depth: Depth
    handicap: float = 1.0


def find_hand(depth: Depth, camera: Camera, search: SearchConfig | None = None, cube: float = 0.30, near: Array | None = None) -> list[Candidate]:
    """Where the hand may be in a depth map (H, W) float32 metres; nowhere if nothing large enough is in the depth range.

    What the depth does not jump within is one thing. The hand is the nearest, or the next if that is hardly farther; of an arm it may be either
    end or the nearest part. With `near` (3,), metres, it is what is about there.
    """
    s = search or SearchConfig()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(_without_edges(_without_gaps(depth), s), connectivity=4)
    pixels = s.smallest * camera.K[0, 0] * camera.K[1, 1] / s.farthest**2  # that a hand has at least
    things = [t for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= pixels and (t := _thing(depth, camera, labels, stats[k], k)).area >= s.smallest]
    if near is None:
        things.sort(key=lambda t: t.front)
        chosen = [(t, center) for t in things[:2] if t.front < things[0].front + ABREAST for center in _places(t, cube)]
    else:
        seen = [int((np.abs(t.points - near).max(1) < MASS * cube / 2).sum()) for t in things]
        most = things[int(np.argmax(seen))] if any(seen) else None
        chosen = [(most, _mass(most.points, np.asarray(near, dtype=np.float64), cube))] if most else []
    alone: dict[int, Depth] = {}
    for thing, _ in chosen:
        if thing.label not in alone:
            others = np.isin(np.arange(count), [t.label for t in things if t is not thing and np.ptp(t.points, axis=0).max() > cube])
            alone[thing.label] = np.where(others[labels], np.float32(0), depth) if others.any() else depth
    return [Candidate(center, alone[thing.label], 1.0 if thing is chosen[0][0] else HANDICAP) for thing, center in chosen]


def hand_near(depth: Depth, camera: Camera, joints: Array, cube: float = 0.30) -> Candidate:
    """Where annotated joints (J, 3), metres, say that the hand is."""
    middle = joints.mean(0)
    about = SearchConfig(max(0.01, middle[2] - cube), middle[2] + cube)
    return next(iter(find_hand(depth, camera, about, cube, middle)), Candidate(middle, depth))


def centre_of_mass(depth: Depth, camera: Camera, start: Array, cube: float = 0.30) -> Array:
    """The centre (3,) of the points that lie about `start`, within `MASS` of the cube; `start` itself where there are none."""
    half = MASS * cube / 2
    if start[2] <= 0:
        return start
    u, v = camera.pixels(start[None])[0]
    ru, rv = half * camera.K[0, 0] / start[2], half * camera.K[1, 1] / start[2]
    u0, v0 = max(0, int(u - ru)), max(0, int(v - rv))
    part = depth[v0 : max(v0, int(v + rv) + 1), u0 : max(u0, int(u + ru) + 1)]
    rows, columns = np.nonzero(np.abs(part - start[2]) < half)
    return _mass(_points(depth, camera, columns + u0, rows + v0), start, cube)


def _mass(points: Array, start: Array, cube: float) -> Array:
    about = points[np.abs(points - start).max(1) < MASS * cube / 2]
    return about.mean(0) if len(about) else np.asarray(start, dtype=np.float64)


class _Thing(NamedTuple):
    """points (N, 3) metres; front: depth of its nearest part; area: square metres, as if seen frontally."""

    label: int
    points: Array
    front: float
    area: float


def _places(thing: _Thing, cube: float) -> list[Array]:
    """Centres (3,): the middle of what is as small as a hand; of what is longer the middles of both ends, a hand's length each, and of what is
    nearest."""
    points, hand = thing.points, HAND * cube
    middle = points.mean(0)
    axis = np.linalg.svd(points[:: max(1, len(points) // 2000)] - middle, full_matrices=False)[2][0]
    along = (points - middle) @ axis
    least, most = np.percentile(along, [1, 99])
    if most - least < 1.3 * hand:
        return [middle]
    parts = (along < least + hand, along > most - hand, points[:, 2] < thing.front + hand / 2)
    return [points[part].mean(0) for part in parts]


def _thing(depth: Depth, camera: Camera, labels: NDArray[np.int32], stats: NDArray[np.int32], label: int) -> _Thing:
    x, y, w, h = stats[:4]
    rows, columns = np.nonzero((labels[y : y + h, x : x + w] == label) & (depth[y : y + h, x : x + w] > 0))
    points = _points(depth, camera, columns + x, rows + y)
    area = float(np.square(points[:, 2]).sum()) / (camera.K[0, 0] * camera.K[1, 1])
    front = float(np.percentile(points[:, 2], 2)) if len(points) else np.inf
    return _Thing(label, points, front, area)


def _without_gaps(depth: Depth) -> Depth:
    """Holes of one or two pixels filled where their sides are at one depth: they part nothing there."""
    known, beside = np.nan_to_num(depth), np.ones((3, 3), np.uint8)
    seen = known > 0
    most, least = cv2.dilate(known, beside), cv2.erode(np.where(seen, known, np.float32(1e3)), beside)
    return np.where(seen | (most - least > JUMP), known, most)


def _without_edges(known: Depth, search: SearchConfig) -> NDArray[np.uint8]:
    """1 in the depth range, except on both sides of a jump."""
    inside = cv2.inRange(known, search.nearest, search.farthest)
    steps_u = (cv2.absdiff(known[:, 1:], known[:, :-1]) > JUMP).view(np.uint8)
    steps_v = (cv2.absdiff(known[1:], known[:-1]) > JUMP).view(np.uint8)
    inside &= 1
    inside[:, 1:] &= ~steps_u
    inside[:, :-1] &= ~steps_u
    inside[1:] &= ~steps_v
    inside[:-1] &= ~steps_v
    return inside


def _points(depth: Depth, camera: Camera, u: NDArray[np.int64], v: NDArray[np.int64]) -> Array:
    z = depth[v, u].astype(np.float64)
    return np.stack([(u - camera.K[0, 2]) / camera.K[0, 0] * z, (v - camera.K[1, 2]) / camera.K[1, 1] * z, z], -1)
