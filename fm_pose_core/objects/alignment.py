"""A model's edges against those of photographs, on renderings of the model as it would look in each of them.

- `Aligner.match` compares the orientation of edges, without their sign, as LINE-2D does (Hinterstoisser et al.,
  Gradient Response Maps for Real-Time Detection of Textureless Objects, PAMI 2012). Fields of orientations are blurred,
  so that it finds its way from far off, and compared by their normalised correlation.
- `Aligner.distances` lets each edge point of a rendering look for an edge of the photograph along its normal (Harris
  and Stennett, RAPID, BMVC 1990), with Tukey's robust weights. With them settle.py finds the exact place.

Light and paint change how strong an edge is, but not where it is. So neither needs to know them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from fm_pose_core.geometry import Array, apply, exp_so3, inverse, left_jacobian, log_so3, transform
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.outlines import colour_bins
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.types import Camera, Window

Field = NDArray[np.float32]

BLURS = (4.0, 1.0)  # pixels, of the orientation fields
DERIVATIVE = 1.0  # pixels, Gaussian of all derivatives
CONTRAST = 4.0  # grey values a pixel: an edge of this gradient counts half
POINTS = 600  # of the object that are compared in each photograph
EDGE_POINTS = 500  # likewise, whose distances are measured
WEAK = 6.0  # grey values a pixel: a weaker edge of the rendering is none
NOISE = 2.0  # likewise of the photograph
STEP = 0.5  # pixels, of the search
TUKEY = 3.0  # pixels: an edge farther off is another one
OCCLUDED = 4e-3  # metres: what is nearer than the object by more hides it
FEWEST = 30  # points; a photograph that shows fewer says nothing
ROUNDS = 2  # of `match`: how often the model is rendered anew
LEAST_DISTANCE = 0.3  # pixels: edges are not known better one by one
SIZE_SIGMA = 0.02  # how far a model's size may be off, as long as nothing is known


@dataclass(frozen=True)
class View:
    """One photograph, as a virtual camera sees it that looks at the object. T_view_world (4, 4). gradients
    (2, H, W, C): along u and v. front (H, W): depth of what may stand before the object, metres. bins (H, W): of
    colours, see outlines.colour_bins."""

    T_view_world: Array
    gradients: Field
    front: Field
    bins: NDArray[np.int32]

    @cached_property
    def fields(self) -> Field:
        """(S, H, W, 2): orientations of edges at each of BLURS."""
        return _blurred(_orientations(self.gradients), BLURS)

    @cached_property
    def strength(self) -> Field:
        """(H, W): of the edges, grey values a pixel, in the channel where it is largest."""
        return np.asarray(np.sqrt(np.square(self.gradients).sum(0).max(-1)))


@dataclass(frozen=True)
class Fit:
    """Where an object is: the prior or the end of `settle.settle`. T_world_center (4, 4). covariance (6, 6): of the
    place, metres and radians in the object's frame. size, size_sigma: of the object, as a share of the model's."""

    T_world_center: Array
    covariance: Array
    size: float
    size_sigma: float

    @property
    def deviations(self) -> tuple[float, float]:
        """Of the rotation and of the place, radians and metres, all axes together."""
        metres, radians = (float(np.sqrt(np.trace(self.covariance[k, k]))) for k in (slice(3), slice(3, 6)))
        return radians, metres


def difference(A: Array, B: Array) -> Array:
    """(6,): the motion from one place to another, metres and radians, in the frame of A's object."""
    D = inverse(A) @ B
    return np.concatenate([D[:3, 3], log_so3(D[:3, :3])])


class Draws(Protocol):
    """What draws a model: rendering.renderer.Renderer, or rendering.raycaster.Raycaster."""

    def render(self, T_camera_object: Array) -> tuple[NDArray[np.uint8], Field]: ...

    def close(self) -> None: ...


class Aligner:
    """Aligns one model. Poses are of the centre of its box (T_world_center), so that turning and moving it are as
    independent as can be. size, size_sigma: of the object, as a share of the model's, and how well that is known; a
    scanned model can be larger than its object, and then stands too far away. `close` it where it was made, for it
    holds a renderer, which `draws` makes."""

    def __init__(self, mesh: Mesh, crop: Crop, draws: Callable[[Mesh, Array, int, int], Draws] = Renderer) -> None:
        low, high = mesh.box
        self.center = (low + high) / 2
        self.radius = float(np.linalg.norm(high - low)) / 2
        self.size, self.size_sigma = 1.0, SIZE_SIGMA
        self.crop = crop
        centred = Mesh(mesh.vertices - self.center, mesh.normals, mesh.colours, mesh.faces)
        self.renderer = draws(centred, crop.K, crop.size, crop.size)

    def close(self) -> None:
        """Free the renderer."""
        self.renderer.close()

    def patch(
        self, image: NDArray[np.uint8], camera: Camera, T_camera_center: Array
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Array]:
        """What a virtual camera sees that looks at the object: (size, size, 3), where that is inside of the image, and
        T_view_camera (4, 4)."""
        window = Window(*camera.pixels(T_camera_center[None, :3, 3])[0])
        pixels, R_camera_view = self.crop.cut(image, camera, window)
        inside, _ = self.crop.cut(np.full(image.shape[:2], 255, np.uint8), camera, window)
        margin = np.ones((7, 7), np.uint8)  # as far as derivatives see
        return pixels, cv2.erode(inside, margin) == 255, transform(R_camera_view.T, np.zeros(3))

    def view(self, pixels: NDArray[np.uint8], inside: NDArray[np.bool_], T_view_world: Array, front: Field) -> View:
        """A patch, prepared for comparing."""
        gradients = _gradients(pixels) * inside[None, ..., None]
        return View(T_view_world, gradients, front, colour_bins(pixels, inside))

    def match(self, views: Sequence[View], T_world_center: Array, blur: float = BLURS[-1]) -> Array:
        """The nearest place with the best agreement of orientations."""
        T = T_world_center
        for _ in range(ROUNDS):
            function = self._match(views, T, blur)
            if function is None:
                return T
            y = minimize(function, np.zeros(6), jac=True, method="BFGS", options={"maxiter": 30, "gtol": 1e-4}).x
            T = self.moved(T, y)
            if np.abs(y).max() < 2e-3:
                break
        return T

    def agreement(self, views: Sequence[View], T_world_center: Array, blur: float = BLURS[-1]) -> float:
        """Of the orientations: 1 if all are the same, 0 if they have nothing in common."""
        function = self._match(views, T_world_center, blur)
        return 0.0 if function is None else -function(np.zeros(6))[0]

    def moved(self, T: Array, y: Array) -> Array:
        """y (6,) or more: in the object's frame, moved by so many radii, turned by so many radians."""
        return T @ transform(exp_so3(y[3:6]), self.radius * y[:3])

    def draw(self, T_view_center: Array, size: float) -> tuple[NDArray[np.uint8], Field]:
        return self.renderer.render(T_view_center @ np.diag([size, size, size, 1.0]))

    def _match(self, views: Sequence[View], T: Array, blur: float) -> "_Match | None":
        templates = [(v, t) for v in views if (t := self._template(v, T, blur)) is not None]
        if not templates:
            return None
        fields = np.stack([v.fields[BLURS.index(blur)] for v, _ in templates])
        poses = np.stack([v.T_view_world @ T for v, _ in templates])
        return _Match(fields, poses, [t for _, t in templates], self.crop.K, self.radius)

    def _template(self, view: View, T_world_center: Array, blur: float) -> tuple[Array, Field] | None:
        """Points of the object that the view shows (N, 3) and the rendering's orientations there (N, 2)."""
        T = view.T_view_world @ T_world_center
        rgba, depth = self.draw(T, self.size)
        depth = _widened(depth, 3 if blur <= 2.0 else 7)
        v, u = _some((depth > 0) & ~hidden(depth, view.front), POINTS)
        if len(u) < FEWEST:
            return None
        (field,) = _blurred(_orientations(_gradients(rgba)), (blur,))
        points = self.points_at(np.column_stack([u, v]).astype(np.float64), depth[v, u].astype(np.float64))
        return apply(inverse(T), points), field[v, u]

    def points_at(self, pixels: Array, depth: Array) -> Array:
        """(N, 3) in the view's frame."""
        return np.column_stack([(pixels - self.crop.K[:2, 2]) / self.crop.focal * depth[:, None], depth])

    def edge_points(
        self, view: View, T_view_center: Array, rgba: NDArray[np.uint8], depth: Field
    ) -> "EdgePoints | None":
        """Of what is drawn at T_view_center: (H, W, 4), and (H, W) in metres. None where it shows too few."""
        edges = _rendered_edges(rgba, depth, view.front)
        if edges is None:
            return None
        pixels, normals, distance = edges
        return EdgePoints(apply(inverse(T_view_center), self.points_at(pixels, distance)), normals)

    def sensitivity(self, T_view_center: Array, points: Array, normals: Array) -> tuple[Array, Array]:
        """Of points (N, 3) of the object, which the view shows at pixels (N, 2): how far each pixel moves along its
        normal (N, 2) with the motion of `moved` and with the object's growth (N, 7); and the pixels."""
        P = apply(T_view_center, points)
        slope = normals * self.crop.focal / P[:, 2:]  # of the pixel along the normal by the point
        slope = np.column_stack([slope, -(slope * P[:, :2]).sum(1) / P[:, 2]]) @ T_view_center[:3, :3]
        J = np.column_stack([self.radius * slope, np.cross(points, slope), (points * slope).sum(1)])
        return J, P[:, :2] / P[:, 2:] * self.crop.focal + self.crop.K[:2, 2]

    def distances(
        self, view: View, edges: "EdgePoints", T_world_center: Array, grown: float, reach: float, farthest: float
    ) -> "Distances":
        """Of edge points to the view's edges, where the object is elsewhere now, and `grown`. They are looked for up to
        `farthest` pixels, and count up to `reach`."""
        J, pixels = self.sensitivity(view.T_view_world @ T_world_center, grown * edges.points, edges.normals)
        return Distances(J, _edge_distance(view.gradients, pixels, edges.normals, farthest), reach)


class _Match:
    """Minus the mean normalised correlation between photographs' and rendered fields, as a function of the motion
    y (6,) of `Aligner.moved`, with its gradient."""

    def __init__(
        self, fields: Field, poses: Array, templates: Sequence[tuple[Array, Field]], K: Array, radius: float
    ) -> None:
        """fields (V, H, W, 2). poses (V, 4, 4): T_view_center. templates: points and orientations of each view."""
        self.count, self.height, self.width = fields.shape[:3]
        self.flat, self.radius = fields.reshape(-1, 2), radius
        self.focal, self.middle = float(K[0, 0]), float(K[0, 2])
        self.view = np.repeat(np.arange(self.count), [len(points) for points, _ in templates])
        self.points = np.concatenate([points for points, _ in templates])
        self.rendered = np.concatenate([field for _, field in templates]).astype(np.float64)
        self.norm = np.sqrt(self._sum(self.rendered, self.rendered)) + 1e-9  # (V,)
        self.R, self.t = poses[self.view, :3, :3], poses[self.view, :3, 3]

    def __call__(self, y: Array) -> tuple[float, Array]:
        shift, turn = self.radius * y[:3], y[3:]
        turned = self.points @ exp_so3(turn).T
        p = np.einsum("nij,nj->ni", self.R, turned + shift) + self.t
        seen, du, dv = self._sample(self.focal * p[:, :2] / p[:, 2:] + self.middle)
        length = np.sqrt(self._sum(seen, seen) + 1e-3 * np.square(self.norm))
        scale = self.norm * length
        correlation = self._sum(seen, self.rendered) / scale  # (V,)
        slope = self.rendered / scale[self.view, None] - seen * (correlation / length**2)[self.view, None]
        by_pixel = np.stack([_dot(du, slope), _dot(dv, slope)], -1) * self.focal / p[:, 2:]
        by_point = np.column_stack([by_pixel, -_dot(by_pixel, p) / p[:, 2]])
        by_point = np.einsum("nij,ni->nj", self.R, by_point)
        by_turn = left_jacobian(turn).T @ np.cross(turned, by_point).sum(0)
        return -float(correlation.mean()), -np.concatenate([self.radius * by_point.sum(0), by_turn]) / self.count

    def _sum(self, a: Array, b: Array) -> Array:
        """Products of (N, 2) and (N, 2) -> (V,)."""
        return np.bincount(self.view, _dot(a, b), self.count).astype(np.float64)

    def _sample(self, pixels: Array) -> tuple[Array, Array, Array]:
        """The photographs' fields (N, 2) between pixels (N, 2), and their derivatives along u and v."""
        u, v = np.clip(pixels, 0.0, np.array([self.width, self.height]) - 1.001).T
        column, row = u.astype(int), v.astype(int)
        a, b = (u - column)[:, None], (v - row)[:, None]
        at = (self.view * self.height + row) * self.width + column
        top_left, top_right = self.flat[at], self.flat[at + 1]
        low_left, low_right = self.flat[at + self.width], self.flat[at + self.width + 1]
        top, low = top_left + a * (top_right - top_left), low_left + a * (low_right - low_left)
        return top + b * (low - top), (1 - b) * (top_right - top_left) + b * (low_right - low_left), low - top


NEIGHBOURS = 8  # edge points that have the same error, as they are of the same edge


@dataclass(frozen=True)
class EdgePoints:
    """Of a rendering: points (N, 3) of the object, metres, in the frame of its centre; unit normals (N, 2) of the
    edges."""

    points: Array
    normals: Array


@dataclass(frozen=True)
class Distances:
    """J (N, 7): of the distances by the motion of `Aligner.moved`, and by the object's growth. distances (N,), pixels,
    may be infinite. reach: of Tukey's weights, pixels."""

    J: Array
    distances: Array
    reach: float

    @property
    def weights(self) -> Array:
        """Tukey's biweight (N,)."""
        return np.asarray(np.square(np.maximum(1.0 - np.square(self.distances / self.reach), 0.0)))

    @property
    def variance(self) -> float:
        """What a distance's square is to be divided by, so that all of them together weigh as much as they tell."""
        weights = self.weights
        squared = float(weights @ np.square(np.where(weights > 0, self.distances, 0.0)) / max(weights.sum(), 1e-9))
        return NEIGHBOURS * max(squared, LEAST_DISTANCE**2)


def _dot(a: Array, b: Array) -> Array:
    """Of the first two columns (N,); numpy's sum over so short an axis is slow."""
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1])


def _gradients(image: NDArray[np.uint8]) -> Field:
    """(H, W, C) -> (2, H, W, C), grey values a pixel."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), DERIVATIVE)
    return np.stack([cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1))])


def _strongest(gradients: Field) -> Field:
    """(2, H, W, C) -> (2, H, W): of the channel where it is largest."""
    channel = np.square(gradients).sum(0).argmax(-1)
    return np.take_along_axis(gradients, channel[None, ..., None], -1)[..., 0]


def _orientations(gradients: Field) -> Field:
    """(2, H, W, C) -> (H, W, 2): twice the angle of the edge, so that its sign does not matter, as a vector whose
    length says whether there is an edge."""
    gu, gv = _strongest(gradients)
    square = gu * gu + gv * gv
    weight = 1.0 / (square + CONTRAST**2)
    return np.stack([weight * (gu * gu - gv * gv), weight * 2 * gu * gv], -1)


def _blurred(field: Field, blurs: Sequence[float]) -> Field:
    return np.stack([cv2.GaussianBlur(field, (0, 0), blur) for blur in blurs])


def _widened(depth: Field, size: int) -> Field:
    """Depth, also a little outside of the object, as of its nearest point there: its outline is an edge."""
    far = np.where(depth > 0, depth, np.float32(np.inf))
    near = cv2.erode(far, np.ones((size, size), np.uint8))
    return np.where(depth > 0, depth, np.where(np.isfinite(near), near, np.float32(0.0)))


def hidden(depth: Field, front: Field) -> NDArray[np.bool_]:
    """Where something stands before the object, and next to it: depth of what is drawn (H, W), and View.front."""
    return cv2.dilate((front < depth - OCCLUDED).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def _rendered_edges(rgba: NDArray[np.uint8], depth: Field, front: Field) -> tuple[Array, Array, Array] | None:
    """Visible edge points: pixels (N, 2), finer than a pixel, unit normals (N, 2) and depth (N,)."""
    depth = _widened(depth, 5)
    gu, gv = _strongest(_gradients(rgba))
    strength = np.hypot(gu, gv)
    n = np.stack([gu, gv], -1) / (strength[..., None] + 1e-6)
    v, u = np.mgrid[: strength.shape[0], : strength.shape[1]].astype(np.float32)
    ahead, behind = (cv2.remap(strength, u + d * n[..., 0], v + d * n[..., 1], cv2.INTER_LINEAR) for d in (1, -1))
    offset = _vertex(behind, strength, ahead)
    peak = (strength >= ahead) & (strength >= behind) & (strength > WEAK) & (np.abs(offset) < 0.75)
    v, u = _some(peak & (depth > 0) & ~hidden(depth, front), EDGE_POINTS)
    if len(u) < FEWEST:
        return None
    normals = n[v, u].astype(np.float64)
    return np.column_stack([u, v]) + offset[v, u, None] * normals, normals, depth[v, u].astype(np.float64)


def _some(mask: NDArray[np.bool_], count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(v, u) of `count` pixels of the mask at the most; the same ones for the same mask."""
    v, u = np.nonzero(mask)
    chosen = np.random.default_rng(0).permutation(len(u))[:count]
    return v[chosen], u[chosen]


def _edge_distance(gradients: Field, pixels: Array, normals: Array, farthest: float) -> Array:
    """(N,) signed distance along the normal to the nearest edge of the photograph; infinite where there is none up to
    `farthest` pixels."""
    along = np.arange(-farthest - 1, farthest + 1 + STEP / 2, STEP)
    u, v = ((pixels[:, None, k] + along * normals[:, None, k]).astype(np.float32) for k in (0, 1))
    gu, gv = (cv2.remap(g, u, v, cv2.INTER_LINEAR) for g in gradients)  # (N, D, C)
    profile = np.abs(gu * normals[:, None, None, 0] + gv * normals[:, None, None, 1]).max(-1)
    before, here, after = profile[:, :-2], profile[:, 1:-1], profile[:, 2:]
    strong = here > np.maximum(NOISE, 0.5 * profile.max(1, keepdims=True))
    peaks = np.where((here >= before) & (here >= after) & strong, np.abs(along[1:-1]), np.inf)
    best = peaks.argmin(1)
    i = np.arange(len(best))
    found = along[1:-1][best] + STEP * _vertex(before[i, best], here[i, best], after[i, best])
    return np.where(np.isfinite(peaks[i, best]), found, np.inf)


def _vertex(before: Array, here: Array, after: Array) -> Array:
    """Where the parabola through three values at -1, 0, 1 has its vertex."""
    bend = before + after - 2 * here
    flat = np.abs(bend) < 1e-6
    return np.where(flat, 0.0, 0.5 * (before - after) / np.where(flat, 1.0, bend))
