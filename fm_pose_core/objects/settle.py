"""Where an object stands, from one photograph and from what was known before: the likeliest place by the edges
(alignment.py) and by the colours on both sides of the outline (outlines.py)."""

from dataclasses import dataclass

import numpy as np

from fm_pose_core.geometry import Array, apply, inverse
from fm_pose_core.objects.alignment import TUKEY, Aligner, Distances, EdgePoints, Field, Fit, View, difference
from fm_pose_core.objects.outlines import Found, Mask, find_outline, likelihood_ratio, outline_of

FAR = 8.0  # pixels: how far an edge is looked for at first
RENDERINGS, STEPS = 5, 2  # how often the model is drawn anew, and moved then
SETTLED = 1e-3  # radians, radii: a smaller step after a drawing is the last one
MARGIN = 3  # pixels next to the drawn outline that tell nothing of colours, as the first pose may be off; then fewer
FEWEST = 30  # points of an outline
SLACK = 2.0  # pixels: by so much farther than edges points of an outline count, as they cannot be another thing's
NEIGHBOURS = 8.0  # points of an outline that have the same error
NOTHING = 0.05  # share of edges and of outline points: with fewer, nothing of the model was found


@dataclass(frozen=True)
class Settled:
    """fit: the end. shape (H, W): where the model is drawn there. ratio (H, W): see outlines.likelihood_ratio."""

    fit: Fit
    shape: Mask
    ratio: Field


@dataclass(frozen=True)
class _Drawn:
    """The model, drawn with `size` at one place: its edges; and of its outline, points (N, 3), metres, in the frame of
    its centre, and normals (N, 2). ratio (H, W): of the colours inside and around."""

    size: float
    edges: EdgePoints | None
    points: Array
    normals: Array
    ratio: Field


def settle(aligner: Aligner, view: View, prior: Fit, noise: float = 1.0) -> Settled | None:
    """The likeliest place by the view and by what was known before: `prior`, with its size and how well that is known.
    noise: how many times worse edges and outline are than they look. None where the view shows neither."""
    units = np.append(np.repeat([aligner.radius, 1.0], 3), 1.0)
    known = np.zeros((7, 7))
    known[:6, :6], known[6, 6] = prior.covariance, prior.size_sigma**2
    known = np.linalg.inv(known / np.outer(units, units))
    strength = np.sqrt(np.square(view.gradients).sum(0).max(-1))
    T, size = prior.T_world_center, prior.size
    for k in range(RENDERINGS * STEPS):
        reach = max(TUKEY, FAR * 0.8**k)
        if k % STEPS == 0:
            fresh = _draw(aligner, view, T, size, max(0, MARGIN - k // STEPS))
            if fresh is None:
                return None
            drawn = fresh
        J, outline = _outline(aligner, view, drawn, T, size, strength)
        edges = None
        if drawn.edges is not None:
            edges = aligner.distances([drawn.edges], T, size / drawn.size, reach, FAR)
        information, gradient = _evidence(J, outline, edges, reach, noise)
        away = np.append(difference(T, prior.T_world_center), prior.size / size - 1.0) / units
        y = np.linalg.solve(information + known, gradient + known @ away)
        if not np.abs(y).max() <= 1.0:  # more than a radian, or the object's radius: nothing holds it
            return None
        T, size = aligner.moved(T, y), size * (1.0 + y[6])
        if reach == TUKEY and k % STEPS == 0 and np.abs(y).max() < SETTLED:
            break
    if outline.seen.mean() < NOTHING and (edges is None or edges.inliers < NOTHING):
        return None
    covariance = np.asarray(np.linalg.inv(information + known) * np.outer(units, units), np.float64)
    _, depth = aligner.draw(view.T_view_world @ T, size)
    fit = Fit(T, covariance[:6, :6], float(size), float(np.sqrt(covariance[6, 6])))
    return Settled(fit, depth > 0, drawn.ratio)


def _draw(aligner: Aligner, view: View, T_world_center: Array, size: float, margin: int) -> _Drawn | None:
    """None where the view does not show the model."""
    T = view.T_view_world @ T_world_center
    rgba, depth = aligner.draw(T, size)
    outline = outline_of(depth)
    if outline is None or len(outline.pixels) < FEWEST:
        return None
    points = apply(inverse(T), aligner.points_at(outline.pixels, outline.depth))
    ratio = likelihood_ratio(view.bins, outline.shape, margin)
    return _Drawn(size, aligner.edge_points(view, T, rgba, depth), points, outline.normals, ratio)


def _outline(
    aligner: Aligner, view: View, drawn: _Drawn, T_world_center: Array, size: float, strength: Field
) -> tuple[Array, Found]:
    """The outline's points in the view, where the object is elsewhere now: the sensitivity of their distances (N, 7),
    and where they are found."""
    T, points = view.T_view_world @ T_world_center, size / drawn.size * drawn.points
    J, pixels = aligner.sensitivity(T, points, drawn.normals)
    return J, find_outline(drawn.ratio, strength, pixels, drawn.normals)


def _evidence(J: Array, outline: Found, edges: Distances | None, reach: float, noise: float) -> tuple[Array, Array]:
    """(7, 7), (7,): the normal equations of outline and edges."""
    tukey = np.square(np.maximum(1.0 - np.square(outline.distances / (reach + SLACK)), 0.0))
    weights = outline.seen * tukey / (NEIGHBOURS * noise**2 * outline.variances)
    information = (J * weights[:, None]).T @ J
    gradient = J.T @ (weights * outline.distances)
    if edges is not None:
        variance = noise**2 * edges.variance
        information, gradient = information + edges.information / variance, gradient + edges.gradient.sum(0) / variance
    return information, gradient
