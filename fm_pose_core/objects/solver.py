"""From a window to the pose of the object in it: crop, network, decode, perhaps a second look, PnP. The estimator, the
validation during training and the calibration all go this way; what runs the network is theirs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.contract import CORNERS
from fm_pose_core.geometry import Array, apply
from fm_pose_core.objects.crop import Crop, cell_middles
from fm_pose_core.objects.pnp import (
    FLOOR,
    PnpSolution,
    PnpSolutions,
    expected_projection_errors,
    rotate_covariance,
    solve_corners,
    widened,
    with_distance,
)
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.reprojection import COARSE_GAIN, LEAST_GAIN, Points
from fm_pose_core.objects.surface import FEWEST, PRESENT, Measured, solve_surface
from fm_pose_core.types import Camera, Visible, Window

AHEAD = np.array([0.0, 0.0, 1.0])
TOGETHER = 16  # windows whose poses are solved at once
FINEST_LOG, LARGEST_LOG = 2e-3, 5.0  # of a distance: none is known better, none is farther off
# Of a zoomed window, how far it may be off: share of its side, and of its scale. As far as the training's are by
# default, see synthetic.displacement and samples.JITTER.
ASTRAY = 10 / 128, math.log(1.25)

Outputs = Mapping[str, NDArray[np.float32]]
Infer = Callable[[NDArray[np.uint8]], Outputs]


class Answer(NamedTuple):
    """What the network says of a window: corners of the box and their deviation (8, 2), window pixels; and, if it was
    made to say, what it sees of the surface, the distance of the box's centre, metres, with the deviation of its
    logarithm, and the probability that a cell of a view shows the object (V, n, n)."""

    corners: Array
    deviation: Array
    surface: Measured | None = None
    distance: tuple[float, float] | None = None
    presence: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ObjectSolver:
    """box_corners (8, 3): of the object, metres. crop: the rule of its window. index: of its output among the
    network's. views: of each window, whose answers are averaged; the first of two looks has but one. fill: the distance
    at which the object fills the window, metres, if the network was trained for a second look; else 0. told: the
    distance for which `crop` is zoomed, metres; 0: it is not. distance_scale: factor on the deviation of the distances
    that the network tells. widen: whether the corners are taken apart before PnP, see pnp.widened."""

    box_corners: Array
    crop: Crop
    index: int = 0
    views: int = 1
    fill: float = 0.0
    told: float = 0.0
    distance_scale: float = 1.0
    widen: bool = False

    @property
    def _in_passing(self) -> bool:
        """Whether this look only tells where to look again."""
        return self.fill > 0 and not self.told

    @cached_property
    def _views(self) -> list[Array]:
        return self.crop.views(1 if self._in_passing else self.views)

    @cached_property
    def _center(self) -> Array:
        return np.asarray(self.box_corners.mean(0))

    def look(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        window: Window,
        again: Callable[[], NDArray[np.uint8]] | None = None,
    ) -> Look:
        """Cut the window out of an image (H, W, 3). again: reads the image, where it is not worth keeping."""
        R_camera_window = self.crop.rotation(camera, window)
        pixels = self.crop.cut_all(image, camera, [R_camera_window @ view for view in self._views])
        return Look(pixels, camera, R_camera_window, again or (lambda: image))

    def decode(self, outputs: Outputs) -> Answer:
        """The network's answers to the views of a window. Where an object has symmetries, the views must agree on one
        of the equivalent poses: else their mean is no pose."""
        corners, spread = (
            outputs[k].reshape(len(self._views), -1, CORNERS, 2)[:, self.index] for k in ("corners", "spread")
        )
        answers = self.crop.view_to_window(corners.astype(np.float64), np.array(self._views))
        # How far the views disagree says no more about the error than their spread does (measured).
        surface = self._surface(outputs) if "points" in outputs else None
        distance = self._distance(outputs) if "distance" in outputs else None
        presence = self._presence(outputs) if "presence" in outputs else None
        return Answer(answers.mean(0), np.sqrt(np.square(spread).mean(0)), surface, distance, presence)

    def _presence(self, outputs: Outputs) -> NDArray[np.float32]:
        presence = outputs["presence"][:, self.index]
        side = math.isqrt(presence.shape[1])
        return presence.reshape(-1, side, side).copy()  # not the whole batch's

    def _distance(self, outputs: Outputs) -> tuple[float, float]:
        """The mean over the views; turning the camera leaves a distance as it is."""
        logs, spread = (
            outputs[k].reshape(len(self._views), -1)[:, self.index] for k in ("distance", "distance_spread")
        )
        log = float(np.clip(logs.mean(dtype=np.float64), -LARGEST_LOG, LARGEST_LOG))
        metres = self.crop.unit_distance(self.box_corners) * math.exp(log)
        return metres, float(np.sqrt(np.square(spread, dtype=np.float64).mean()))

    def _surface(self, outputs: Outputs) -> Measured:
        """The points of all cells, of all views, that show the object; not those that are far outside of its box,
        which may even lie behind the camera."""
        points, doubt, presence = (outputs[k][:, self.index] for k in ("points", "doubt", "presence"))
        half = np.ptp(self.box_corners, axis=0) / 2
        possible = (np.abs(points - self._center) <= half + half.max()).all(-1)
        pixels, shown = cell_middles(self.crop.size, math.isqrt(points.shape[1])), (presence > PRESENT) & possible
        seen = [self.crop.view_to_window(pixels[here], R) for here, R in zip(shown, self._views, strict=True)]
        return Measured(points[shown].astype(float), np.concatenate(seen), doubt[shown].astype(float))

    def corners(self, answer: Answer, spread_scale: float) -> Array:
        """(8, 2) window pixels, as PnP takes them."""
        return widened(answer.corners, spread_scale * answer.deviation) if self.widen else answer.corners

    def pose(self, answer: Answer, spread_scale: float = 1.0) -> PnpSolution:
        """From the network's answer to the pose in the window's frame, by PnP."""
        return _poses([(self, answer)], spread_scale)[0]

    def finished(
        self, look: Look, answer: Answer, found: PnpSolution, expected_error: float, spread_scale: float
    ) -> Solution:
        """With the pose `found` in the camera's frame."""
        corners = self.crop.to_image(self.corners(answer, spread_scale), look.camera, look.R_camera_window)
        if not found.accepted:
            return Solution(np.eye(4), corners, np.inf, found.covariance, np.inf, found.reason)
        T = found.T_camera_object
        difference = corners - look.camera.pixels(apply(T, self.box_corners))
        error = float(np.sqrt(np.square(difference).sum(axis=1).mean()))
        visible = None
        if answer.presence is not None:
            visible = Visible(
                answer.presence, self.crop.K, self.crop.size, look.R_camera_window @ np.array(self._views)
            )
        return Solution(T, corners, error, found.covariance, expected_error, visible=visible)

    def for_distance(self, distance: float) -> "ObjectSolver":
        """Zoomed so that an object so far away (metres) fills the window; the same for a network that was not trained
        for it, or an unknown distance (0)."""
        if not self.fill or not distance:
            return self
        return replace(self, crop=self.crop.zoomed(distance / (self.told or self.fill)), told=distance)

    def second_look(self, look: Look, answer: Answer, spread_scale: float = 1.0) -> "tuple[ObjectSolver, Look] | None":
        """At where the answer to the first look has the object: centred, and zoomed so that the object fills the
        window. None if the answer makes no sense, if the first look was such already, about as well as in the training,
        or for a network that was not trained for it. Where a zoomed window shows nothing, the same place as in a first
        look."""
        if not self.fill:
            return None
        center = self._whereabouts(answer, spread_scale)
        if center is None and not self.told:
            return None
        if center is None:
            solver, center = replace(self, crop=self.crop.zoomed(self.fill / self.told), told=0.0), AHEAD
        elif self.told and not self._astray(center):
            return None
        else:
            solver = self.for_distance(float(np.linalg.norm(center)))
        window = Window(*look.camera.pixels((look.R_camera_window @ center)[None])[0])
        return solver, solver.look(look.image(), look.camera, window, look.image)

    def _astray(self, center: Array) -> bool:
        """Whether a zoomed window was farther off the object's `center` (3,), window frame, than those of the
        training."""
        off = float(np.hypot(*center[:2]) / center[2]) * self.crop.focal / self.crop.size
        return off > ASTRAY[0] or abs(math.log(float(np.linalg.norm(center)) / self.told)) > ASTRAY[1]

    def _whereabouts(self, answer: Answer, spread_scale: float) -> Array | None:
        """The box's centre (3,), metres, window frame, well enough to look there: in the middle of the corners, as far
        away as the network says, or as was told before; by PnP if nobody says."""
        distance = self.told if answer.distance is None else answer.distance[0]
        if not distance:
            found = self.pose(answer, spread_scale)
            return apply(found.T_camera_object, self._center[None])[0] if found.accepted else None
        offset = answer.corners.mean(0) - self.crop.K[:2, 2]
        if not (np.abs(offset) < self.crop.size).all() or not np.isfinite(distance):
            return None
        ray = np.append(offset / self.crop.focal, 1.0)
        return ray * (distance / np.linalg.norm(ray))


@dataclass(frozen=True)
class Sight:
    """What the network says of a look."""

    solver: ObjectSolver
    look: Look
    answer: Answer


def see(infer: Infer, asked: Sequence[tuple[ObjectSolver, Look]]) -> list[Sight]:
    """The network's answers to all looks, in one batch. infer: windows (N, S, S, 3) -> the named outputs."""
    if not asked:
        return []
    outputs = split(infer(np.concatenate([look.pixels for _, look in asked])), [look for _, look in asked])
    return [Sight(solver, look, solver.decode(x)) for (solver, look), x in zip(asked, outputs, strict=True)]


def see_again(infer: Infer, sights: Sequence[Sight], spread_scale: float = 1.0) -> list[tuple[Sight, ...]]:
    """Each sight with a second one, where there is one; the best comes first."""
    asked = [x.solver.second_look(x.look, x.answer, spread_scale) for x in sights]
    second = iter(see(infer, [x for x in asked if x is not None]))
    return [(x,) if again is None else (next(second), x) for x, again in zip(sights, asked, strict=True)]


def solve_best(groups: Sequence[Sequence[Sight]], spread_scale: float = 1.0) -> list[Solution]:
    """Of each group of sights, the first solution that is accepted, or the last one."""
    solutions = solve_all([group[0] for group in groups], spread_scale)
    left = [i for i, group in enumerate(groups) if len(group) > 1 and not solutions[i].accepted]
    if left:
        others = solve_best([groups[i][1:] for i in left], spread_scale)
        for i, other in zip(left, others, strict=True):
            solutions[i] = other
    return solutions


def solve_all(sights: Sequence[Sight], spread_scale: float = 1.0) -> list[Solution]:
    """From the network's answers to the poses in the camera's frame."""
    solutions: list[Solution] = []
    for begin in range(0, len(sights), TOGETHER):
        some = sights[begin : begin + TOGETHER]
        found = turned(_poses([(x.solver, x.answer) for x in some], spread_scale), [x.look for x in some])
        expected, rows = np.full(len(some), np.inf), np.flatnonzero(found.accepted)
        if len(rows):
            boxes = np.stack([some[i].solver.box_corners for i in rows])
            cameras = [some[i].look.camera for i in rows]
            T, covariance = found.T_camera_object[rows], found.covariance[rows]
            expected[rows] = expected_projection_errors(T, covariance, boxes, cameras)
        solutions += [
            x.solver.finished(x.look, x.answer, found[i], float(expected[i]), spread_scale) for i, x in enumerate(some)
        ]
    return solutions


def turned(found: PnpSolutions, looks: Sequence[Look]) -> PnpSolutions:
    """From the poses in the windows' frames to those in the camera's."""
    R = np.stack([look.R_camera_window for look in looks])
    T = np.zeros((len(R), 4, 4))
    T[:, :3, :3], T[:, 3, 3] = R, 1.0
    return replace(found, T_camera_object=T @ found.T_camera_object, covariance=rotate_covariance(found.covariance, R))


def _poses(asked: Sequence[tuple[ObjectSolver, Answer]], spread_scale: float) -> PnpSolutions:
    """From the network's answers to the poses in the windows' frames, by PnP."""
    boxes, K = (np.stack([x.box_corners.T for x, _ in asked]), np.stack([x.crop.K for x, _ in asked]))
    corners = Points(boxes, np.stack([x.corners(answer, spread_scale).T for x, answer in asked]), K)
    deviation = np.stack([np.asarray(answer.deviation, np.float64).T for _, answer in asked])
    surfaces = [x.surface for _, x in asked]
    rows = np.array([i for i, x in enumerate(surfaces) if x is not None and len(x.points) >= FEWEST], int)
    least_gain = np.full(len(asked), LEAST_GAIN)
    least_gain[rows] = COARSE_GAIN  # the surfaces' poses go on from these
    found = solve_corners(corners, FLOOR**2 + np.square(spread_scale * deviation), least_gain)
    if len(rows):
        seen = [x for x in surfaces if x is not None and len(x.points) >= FEWEST]
        better = solve_surface(found.of(rows), corners.of(rows), deviation[rows], seen, spread_scale)
        found = found.changed(rows, better)
    told = np.array([answer.distance or (np.nan, np.nan) for _, answer in asked])
    rows = np.flatnonzero(found.accepted & np.isfinite(told).all(1))
    if len(rows):
        scales, distance = np.array([asked[i][0].distance_scale for i in rows]), told[rows]
        sigma = np.maximum(scales * distance[:, 1], FINEST_LOG)
        nearer = with_distance(found.of(rows), boxes[rows].mean(2), distance[:, 0], sigma)
        found = found.changed(rows, nearer)
    return found


def split(outputs: Outputs, looks: Sequence[Look]) -> list[Outputs]:
    """The network's answers to all looks' pixels, one after the other -> those to each look."""
    ends = np.cumsum([len(x.pixels) for x in looks])
    return [{k: v[end - len(x.pixels) : end] for k, v in outputs.items()} for x, end in zip(looks, ends, strict=True)]
