"""Where the hand is in a depth map: the locators of hands (beyond the paper, which takes the cube from annotations).

`Search` takes the nearest thing, or an end of it; what cannot be told from the depth alone is left as candidates to the
network. `Tracked` asks less of it, where the hand has just been seen. `Near` takes what is about given points,
`Detected` what is in the box of a 2D detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array
from fm_pose_core.types import ANY_CLASS, Camera, Detection

Depth = NDArray[np.float32]
# Of the cube's side: the centre of mass is that of what lies within; less of the forearm than the cube holds.
MASS = 2 / 3
HAND = 0.6  # of the cube's side: the length of a hand
ABREAST = 0.10  # metres: the second nearest thing may be the hand if it is not farther behind the nearest,
HANDICAP = 1.6  # and looks so much more like one
REACH = 0.10  # metres that a hand moves from one depth map to the next, at most
TINY = 1e-4  # square metres, and metres: next to nothing
SEARCHED = 320  # pixels: an image this wide is fine enough to find a hand in
JUMP = 0.02  # metres: between neighbouring pixels, where one thing ends and another begins


@dataclass(frozen=True)
class SearchConfig:
    """Where the hand is looked for: the nearest thing that is large enough."""

    nearest: float = knob(0.15, "Nearest depth at which a hand is looked for and accepted, metres.", 0.01, 20.0)
    farthest: float = knob(1.5, "Farthest depth of a hand and its joints, metres.", 0.01, 20.0)
    smallest: float = knob(0.0025, "Smallest visible area of a hand, square metres.", 1e-4, 1.0)

    def __post_init__(self) -> None:
        expect(self.nearest < self.farthest, "nearest", f"less than farthest ({self.farthest:g})", self.nearest)


class Candidate(NamedTuple):
    """Where the hand may be. center (3,): of the cube, metres. depth (H, W): the depth map with holes (0) where other
    things are seen that are larger than the cube, such as a body or a wall. handicap: times which its expected error
    counts."""

    center: Array
    depth: Depth
    handicap: float = 1.0


class Locator(Protocol):
    """Says where the hand may be in a depth map (H, W) float32 metres: none, one, or several places of which the
    network chooses."""

    def locate(self, depth: Depth, camera: Camera) -> list[Candidate]: ...


@dataclass(frozen=True)
class Search:
    """The nearest thing that is large enough; see `find_hand`. cube: its side, metres."""

    config: SearchConfig = field(default_factory=SearchConfig)
    cube: float = 0.30

    def locate(self, depth: Depth, camera: Camera) -> list[Candidate]:
        return find_hand(depth, camera, self.config, self.cube)


@dataclass(frozen=True)
class Tracked:
    """Of the places that a search finds, the one that is nearest to where the hand has just been; all of them if none
    is within REACH of it. So the network need not choose, which takes less time. last (3,): the mean of its joints,
    metres."""

    search: Search
    last: Array

    def locate(self, depth: Depth, camera: Camera) -> list[Candidate]:
        found = self.search.locate(depth, camera)
        away = [float(np.linalg.norm(c.center - self.last)) for c in found]
        if min(away, default=np.inf) > REACH:
            return found
        hand = found[int(np.argmin(away))]
        center = centre_of_mass(hand.depth, camera, hand.center, self.search.cube)
        return [hand if center is None else hand._replace(center=center)]


@dataclass(frozen=True)
class Near:
    """What is about `points` (3,) or (M, 3), metres in the camera's frame, at whatever depth; see `hand_near`.

    cube: its side, metres."""

    points: Array
    cube: float = 0.30

    def locate(self, depth: Depth, camera: Camera) -> list[Candidate]:
        hand = hand_near(depth, camera, np.atleast_2d(self.points), self.cube)
        return [] if hand is None else [hand]


@dataclass(frozen=True)
class Detected:
    """What is in the box of the best of `detections`. wanted: the class of a hand, or ANY_CLASS. min_score: of that
    class, at least. search: its depth range. cube: its side, metres."""

    detections: Sequence[Detection]
    wanted: str = ANY_CLASS
    min_score: float = 0.0
    search: SearchConfig = field(default_factory=SearchConfig)
    cube: float = 0.30

    def locate(self, depth: Depth, camera: Camera) -> list[Candidate]:
        scored = [(d.score(self.wanted), i) for i, d in enumerate(self.detections)]
        of_hands = [(score, i) for score, i in scored if score is not None and score >= self.min_score]
        point = self._point(self.detections[max(of_hands)[1]], depth, camera) if of_hands else None
        return [] if point is None else Near(point, self.cube).locate(depth, camera)

    def _point(self, box: Detection, depth: Depth, camera: Camera) -> Array | None:
        """The box's centre at the near part of the depths in the box, (3,) metres; None where nothing is in it."""
        w, h = box.width / 2, box.height / 2
        rows = slice(max(0, int(box.v - h)), max(0, int(box.v + h) + 1))
        columns = slice(max(0, int(box.u - w)), max(0, int(box.u + w) + 1))
        part = depth[rows, columns]
        known = part[(part >= self.search.nearest) & (part <= self.search.farthest)]
        if not known.size:
            return None
        return camera.rays(np.array([[box.u, box.v]]))[0] * float(np.percentile(known, 25))


def find_hand(depth: Depth, camera: Camera, search: SearchConfig | None = None, cube: float = 0.30) -> list[Candidate]:
    """Where the hand may be in a depth map (H, W) float32 metres; nowhere if nothing large enough is in the depth
    range.

    What the depth does not jump within is one thing. The hand is the nearest, or the next if that is hardly farther; of
    an arm it may be either end or the nearest part.
    """
    s, depth = search or SearchConfig(), _known(depth)
    coarse, seen, k = _coarse(depth, camera)
    labels, everything = _things(coarse, seen, s.nearest - cube / 2, s.farthest + cube / 2, s.smallest)
    things = sorted((t for t in everything if s.nearest <= t.front <= s.farthest), key=lambda t: t.front)
    candidates = []
    for thing in things[:2]:
        if thing.front < things[0].front + ABREAST:
            alone = _alone(depth, labels, thing, everything, cube, k)
            handicap = 1.0 if thing is things[0] else HANDICAP
            candidates += [
                Candidate(center, alone, handicap)
                for center in _places(_points_of(coarse, seen, labels, thing), thing.front, cube)
            ]
    return candidates


def hand_near(depth: Depth, camera: Camera, near: Array, cube: float = 0.30) -> Candidate | None:
    """The hand that is about `near` (M, 3), metres, such as annotated joints, NaN where unknown: of all things the one
    that is nearest to these points, whatever its size and depth. None where nothing is."""
    near = near[np.isfinite(near).all(1)]
    if not len(near):
        return None
    middle, depth = near.mean(0), _known(depth)
    coarse, seen, k = _coarse(depth, camera)
    labels, things = _things(coarse, seen, middle[2] - cube, middle[2] + cube, TINY)
    points = [_points_of(coarse, seen, labels, t) for t in things]
    far = [_distance(p, near) for p in points]
    if not far or min(far) > MASS * cube / 2:
        return None
    best = int(np.argmin(far))
    center = _mass(points[best], middle, cube)
    return Candidate(middle if center is None else center, _alone(depth, labels, things[best], things, cube, k))


def annotated_hand(depth: Depth, camera: Camera, joints: Array, cube: float = 0.30) -> Candidate:
    """The hand about annotated joints (J, 3), metres, even where nothing of it is seen. Raises InputError if one is not
    known (NaN)."""
    expect(bool(np.isfinite(joints).all()), "joints", "known ones", "NaN")
    return hand_near(depth, camera, joints, cube) or Candidate(joints.mean(0), depth)


def centre_of_mass(depth: Depth, camera: Camera, start: Array, cube: float = 0.30) -> Array | None:
    """The centre (3,) of the points that lie about `start`, within `MASS` of the cube; None where there are none."""
    if not np.isfinite(start).all() or start[2] <= 0:
        return None
    half = MASS * cube / 2
    border = start + half * np.array([[x, y, 0.0] for x in (-1, 0, 1) for y in (-1, 0, 1)])
    pixels = camera.pixels(border)
    (u0, v0), (u1, v1) = np.maximum(pixels.min(0), 0).astype(int), np.maximum(pixels.max(0) + 1, 0).astype(int)
    part = depth[v0:v1, u0:u1]
    rows, columns = np.nonzero((np.abs(part - start[2]) < half) & (part > 0))
    return _mass(_points(depth, camera, columns + u0, rows + v0), start, cube)


def _coarse(depth: Depth, camera: Camera) -> tuple[Depth, Camera, int]:
    """Every k-th pixel of every k-th row, with its camera, and k: 2 (3, …) for an image that is at least so many times
    as wide as `SEARCHED`."""
    k = max(1, camera.width // SEARCHED)
    coarse = np.ascontiguousarray(depth[::k, ::k])
    K = np.vstack([camera.K[:2] / k, camera.K[2:]])
    return coarse, Camera(K, coarse.shape[1], coarse.shape[0], camera.distortion, camera.distortion_model), k


class _Thing(NamedTuple):
    """label: in the picture of labels. box: u, v, width, height, pixels. front: depth of its nearest part, metres.
    size: largest extent, metres."""

    label: int
    box: tuple[int, int, int, int]
    front: float
    size: float


def _things(
    depth: Depth, camera: Camera, nearest: float, farthest: float, smallest: float
) -> tuple[NDArray[np.int32], list[_Thing]]:
    """Labels (H, W), and the things in the depth range of at least `smallest` square metres, as if seen frontally in
    the middle of the image."""
    fx, fy = camera.K[0, 0], camera.K[1, 1]
    inside = _without_edges(_without_gaps(depth), max(nearest, TINY), farthest)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    things = []
    # 0 is what is no thing.
    for k in 1 + np.nonzero(stats[1:, cv2.CC_STAT_AREA] >= smallest * fx * fy / farthest**2)[0]:
        x, y, w, h = (int(n) for n in stats[k, :4])
        part = depth[y : y + h, x : x + w]
        z = part[(labels[y : y + h, x : x + w] == k) & (part > 0)]  # what filled a gap is no part of it
        if not len(z) or np.square(z, dtype=np.float64).sum() < smallest * fx * fy:
            continue
        front, back = np.percentile(z[:: max(1, len(z) // 5000)].astype(np.float64), [2, 98])
        width, height = front * _extent(camera, (x, y, w, h))
        things.append(_Thing(int(k), (x, y, w, h), float(front), float(max(width, height, back - front))))
    return labels, things


def _extent(camera: Camera, box: tuple[int, int, int, int]) -> Array:
    """Width and height (2,) of what fills a box of pixels, metres at a depth of one metre."""
    x, y, w, h = box
    if not camera.distortion.size:
        return np.array([w / camera.K[0, 0], h / camera.K[1, 1]])
    border = [[u, v] for u in (x, x + w / 2, x + w) for v in (y, y + h / 2, y + h)]
    return np.ptp(camera.rays(np.array(border) - 0.5)[:, :2], axis=0)


def _alone(
    depth: Depth, labels: NDArray[np.int32], thing: _Thing, things: list[_Thing], cube: float, k: int = 1
) -> Depth:
    """The depth map without the other things that are larger than the cube. k: pixels from one label to the next."""
    others = [t for t in things if t is not thing and t.size > cube]
    alone = depth.copy() if others else depth
    for other in others:
        x, y, w, h = other.box
        of_other = (labels[y : y + h, x : x + w] == other.label).repeat(k, 0).repeat(k, 1)
        part = alone[k * y : k * (y + h), k * x : k * (x + w)]
        np.copyto(part, 0, where=of_other[: part.shape[0], : part.shape[1]])
    return alone


def _places(points: Array, front: float, cube: float) -> list[Array]:
    """Centres (3,): the middle of what is as small as a hand; of what is longer the middles of both ends, a hand's
    length each, and of what is nearest."""
    hand, middle = HAND * cube, points.mean(0)
    axis = np.linalg.svd(points[:: max(1, len(points) // 2000)] - middle, full_matrices=False)[2][0]
    along = (points - middle) @ axis
    least, most = np.percentile(along, [1, 99])
    if most - least < 1.3 * hand:
        return [middle]
    parts = (along < least + hand, along > most - hand, points[:, 2] < front + hand / 2)
    return [points[part].mean(0) for part in parts]


def _distance(points: Array, near: Array) -> float:
    """From `near` (M, 3) to a thing (N, 3): the median over `near` of the distance to its nearest point, metres."""
    some = points[:: max(1, len(points) // 2000)]
    return float(np.median(np.sqrt(np.square(near[:, None] - some).sum(-1).min(1))))


def _mass(points: Array, start: Array, cube: float) -> Array | None:
    about = points[np.abs(points - start).max(1) < MASS * cube / 2]
    return about.mean(0) if len(about) else None


def _known(depth: Depth) -> Depth:
    """0 for all that is no depth."""
    if np.isfinite(depth.sum(dtype=np.float64)):  # so is each
        return depth
    return np.nan_to_num(depth, posinf=0.0, neginf=0.0)


def _without_gaps(known: Depth) -> Depth:
    """Holes of one or two pixels filled where their sides are at one depth: they part nothing there."""
    gaps, beside = known <= 0, np.ones((3, 3), np.uint8)
    if not gaps.any():
        return known
    filled = known.copy()
    np.putmask(filled, gaps, np.float32(1e3))
    most, least = cv2.dilate(known, beside), cv2.erode(filled, beside)
    np.putmask(filled, gaps, np.where(most - least > JUMP, known, most))
    return filled


def _without_edges(known: Depth, nearest: float, farthest: float) -> NDArray[np.uint8]:
    """1 in the depth range, except on both sides of a jump."""
    inside = (known >= nearest) & (known <= farthest)
    steps_u, steps_v = np.abs(np.diff(known, axis=1)) <= JUMP, np.abs(np.diff(known, axis=0)) <= JUMP
    inside[:, 1:] &= steps_u
    inside[:, :-1] &= steps_u
    inside[1:] &= steps_v
    inside[:-1] &= steps_v
    return inside.view(np.uint8)


def _points_of(depth: Depth, camera: Camera, labels: NDArray[np.int32], thing: _Thing) -> Array:
    x, y, w, h = thing.box
    part = np.s_[y : y + h, x : x + w]
    rows, columns = np.nonzero((labels[part] == thing.label) & (depth[part] > 0))
    return _points(depth, camera, columns + x, rows + y)


def _points(depth: Depth, camera: Camera, u: NDArray[np.int64], v: NDArray[np.int64]) -> Array:
    z = depth[v, u].astype(np.float64)
    if camera.distortion.size and len(z):
        return camera.rays(np.stack([u, v], -1)) * z[:, None]
    return np.stack([(u - camera.K[0, 2]) / camera.K[0, 0] * z, (v - camera.K[1, 2]) / camera.K[1, 1] * z, z], -1)
