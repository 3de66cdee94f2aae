"""Where an object stands, from photographs and from what was known before: the likeliest place by the edges
(alignment.py) and by the colours on both sides of the outline (outlines.py)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fm_pose_core.geometry import Array, apply, inverse
from fm_pose_core.objects.alignment import TUKEY, Aligner, EdgePoints, Field, Fit, View, difference, hidden
from fm_pose_core.objects.outlines import CERTAIN, agreement, border, find_outline, likelihood_ratio, outline_of

FAR = 8.0  # pixels: how far an edge is looked for at first
RENDERINGS, STEPS = 5, 2  # how often the model is drawn anew, and moved then
SETTLED = 1e-3  # radians, radii: a smaller step after a drawing is the last one
MARGIN = 3  # pixels next to the drawn outline that tell nothing of colours, as the first pose may be off; then fewer
FEWEST = 30  # points of an outline
SLACK = 2.0  # pixels: by so much farther than edges points of an outline count, as they cannot be another thing's
NEIGHBOURS = 8.0  # points of an outline that have the same error
# Outlines and edges are localised to a few hundredths of a pixel at best, however many points and views agree: the
# model's surface, light and shadow displace many of them alike. On simulated photographs (benchmarks/relabelling.py)
# this much explains the error.
COMMON_ERROR = 0.06  # pixels
NOTHING = 0.05  # share of the points of edges and outlines: with fewer, nothing of the model was found


@dataclass(frozen=True)
class _Drawn:
    """The model in a view, drawn with `size` at one place: its edges; and of its outline, points (N, 3), metres, in the
    frame of its centre, and normals (N, 2). ratio (H, W): of the colours inside and around."""

    view: View
    size: float
    edges: EdgePoints | None
    points: Array
    normals: Array
    ratio: Field


@dataclass
class _Evidence:
    """The normal equations of edges and outlines, (7, 7) and, for each view, (7,). precision: of all their points'
    distances together, 1 / pixels². shown, points: of how many points the views show something, and of how many they
    could."""

    information: Array
    gradients: list[Array]
    precision: float = 0.0
    shown: float = 0.0
    points: int = 0

    def add(self, J: Array, distances: Array, precision: Array, shown: Array) -> None:
        """To the last view: points' distances (N,), how they change with a motion (N, 7), their precision (N,), and
        whether or how well they are seen (N,)."""
        weighted = J * precision[:, None]
        self.information += weighted.T @ J
        self.gradients[-1] += weighted.T @ np.where(precision > 0, distances, 0.0)
        self.precision += float(precision.sum())
        self.shown, self.points = self.shown + float(shown.sum()), self.points + len(shown)

    @property
    def gradient(self) -> Array:
        """(7,), of all views."""
        return np.asarray(np.sum(self.gradients, 0))

    def with_common_error(self, sigma: float) -> "_Evidence":
        """All points err alike by `sigma` pixels, besides."""
        less = 1.0 + sigma**2 * self.precision
        return replace(self, information=self.information / less, gradients=[g / less for g in self.gradients])

    def covariance(self, known: Array) -> Array:
        """(7, 7), with what was known before (7, 7). The points of a view may err alike: where there are several views,
        by as much as these contradict each other (Liang and Zeger, Biometrika 1986)."""
        spread = np.linalg.inv(self.information + known)
        if len(self.gradients) < 2:
            return np.asarray(spread)
        g = np.stack(self.gradients)
        return np.asarray(spread + spread @ (g.T @ g) @ spread)


def settle(
    aligner: Aligner, views: Sequence[View], prior: Fit, noise: float = 1.0, renderings: int = RENDERINGS
) -> Fit | None:
    """The likeliest place by all views together and by what was known before: `prior`, with its size and how well that
    is known. noise: how many times worse edges and outline are than they look. renderings: how often the model is drawn
    anew at the most. None where the views together show too little of edges and outline, or nothing holds the place."""
    units = np.append(np.repeat([aligner.radius, 1.0], 3), 1.0)
    known = np.zeros((7, 7))
    known[:6, :6], known[6, 6] = prior.covariance, prior.size_sigma**2
    known = np.linalg.inv(known / np.outer(units, units))
    T, size = prior.T_world_center, prior.size
    for k in range(renderings * STEPS):
        reach = max(TUKEY, FAR * 0.8**k)
        if k % STEPS == 0:
            margin = max(0, MARGIN - k // STEPS)
            drawn = [x for view in views if (x := _draw(aligner, view, T, size, margin)) is not None]
            if not drawn:
                return None
        seen = _look(aligner, drawn, T, size, reach, noise)
        away = np.append(difference(T, prior.T_world_center), prior.size / size - 1.0) / units
        y = np.linalg.solve(seen.information + known, seen.gradient + known @ away)
        if not np.abs(y).max() <= 1.0:  # more than a radian, or the object's radius: nothing holds it
            return None
        T, size = aligner.moved(T, y), size * (1.0 + y[6])
        if reach == TUKEY and k % STEPS == 0 and np.abs(y).max() < SETTLED:
            break
    if seen.shown < NOTHING * seen.points:
        return None
    covariance = np.asarray(seen.covariance(known) * np.outer(units, units), np.float64)
    return Fit(T, covariance[:6, :6], float(size), float(np.sqrt(covariance[6, 6])))


def colour_agreements(aligner: Aligner, views: Sequence[View], places: Sequence[tuple[Array, float]]) -> Array:
    """How well each place, T_world_center (4, 4) and the object's size, explains the colours of the views: by how many
    pixels of its outline one is better than another. By the colours that all of them find: those of a wrong one would
    call what is missing in its shape background."""
    found, length = np.zeros(len(places)), 0
    for view in views:
        depths = [aligner.draw(view.T_view_world @ T, size)[1] for T, size in places]
        shapes = [depth > 0 for depth in depths]
        bins = np.where(np.any([hidden(depth, view.front) for depth in depths], 0), np.int32(-1), view.bins)
        ratio = np.mean([likelihood_ratio(bins, shape, 0) for shape in shapes], 0)
        found += [agreement(ratio, shape) for shape in shapes]
        length += sum(int(border(shape).sum()) for shape in shapes)
    return np.asarray(found * len(places) / (2.0 * CERTAIN * max(1, length)))


def _draw(aligner: Aligner, view: View, T_world_center: Array, size: float, margin: int) -> _Drawn | None:
    """None where the view shows neither outline nor edges of the model."""
    T = view.T_view_world @ T_world_center
    rgba, depth = aligner.draw(T, size)
    others = hidden(depth, view.front)
    outline, edges = outline_of(depth, others), aligner.edge_points(view, T, rgba, depth)
    if outline is None or len(outline.pixels) < FEWEST:
        return _Drawn(view, size, edges, np.zeros((0, 3)), np.zeros((0, 2)), np.zeros_like(depth)) if edges else None
    points = apply(inverse(T), aligner.points_at(outline.pixels, outline.depth))
    ratio = likelihood_ratio(np.where(others, np.int32(-1), view.bins), outline.shape, margin)
    return _Drawn(view, size, edges, points, outline.normals, ratio)


def _look(
    aligner: Aligner, drawn: Sequence[_Drawn], T_world_center: Array, size: float, reach: float, noise: float
) -> _Evidence:
    """What the views say of the object where it is now."""
    seen = _Evidence(np.zeros((7, 7)), [])
    for x in drawn:
        T, grown = x.view.T_view_world @ T_world_center, size / x.size
        seen.gradients.append(np.zeros(7))
        if len(x.points):
            J, pixels = aligner.sensitivity(T, grown * x.points, x.normals)
            outline = find_outline(x.ratio, x.view.strength, pixels, x.normals)
            tukey = np.square(np.maximum(1.0 - np.square(outline.distances / (reach + SLACK)), 0.0))
            precision = outline.seen * tukey / (NEIGHBOURS * noise**2 * outline.variances)
            seen.add(J, outline.distances, precision, outline.seen.astype(float))
        if x.edges is not None:
            edges = aligner.distances(x.view, x.edges, T_world_center, grown, reach, FAR)
            seen.add(edges.J, edges.distances, edges.weights / (noise**2 * edges.variance), edges.weights)
    return seen.with_common_error(noise * COMMON_ERROR)
