"""A classical refiner: the model is drawn at the pose that the network gives; its edges look for those of the image,
and its outline for where the object's colours end (settle.py). What the network says, with its covariance, holds as
long as the image does not know better: it is the prior of the fit. Needs no OpenGL (rendering.raycaster)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, exp_so3, inverse, skew, transform
from fm_pose_core.objects.alignment import Aligner, Fit
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.crop import Crop, cell_middles
from fm_pose_core.objects.places import spread, squared_deviations
from fm_pose_core.objects.pnp import expected_projection_error, moved_origin
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.settle import colour_agreements, settle
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.raycaster import Raycaster, raycaster_installed
from fm_pose_core.types import SHOWN, Camera, Visible

MARGIN = 1.4  # side of the patch that is compared, by the object's diameter
COARSEST, FINEST = 48, 192  # pixels of it
RAYS = 1  # along each side of a pixel: two were no better (measured), for a third more time
KEPT = 8  # aligners
CLEAR, MOST, LEAST = 0.5, 20, 8  # labelled images that tell what edges are worth: visible fraction, and how many
SIZE_FAR, SIZE_SIGMA = 0.05, 0.004  # how far a model's size may be off, and how well it is known at best
LABEL = 0.002, 0.004, np.radians(1.5)  # deviations of labels: metres across, share of the distance, radians
NETWORK = 0.004, 0.025, np.radians(4.0)  # likewise of poses that are to be refined
# Likewise of what edges do not tell, as all of them are off alike: by model, camera and colours. Without it,
# errors of refined poses are far larger than the covariance says.
UNTOLD = 0.001, 0.0, np.radians(1.0)
SCALES = (1.0, 2.0, 4.0, 8.0)
VERTEX = 16  # of so many vertices one counts
Image = NDArray[np.uint8]
STARTS = 5  # poses at the most: with more symmetries, as of a solid of revolution, only the network's is tried
FARTHEST = 16.0  # squared deviations a coordinate between fit and prior: beyond, these are another thing's edges


@dataclass(frozen=True)
class EdgeNoise:
    """What edges and outline of an object are worth, by labelled images. size: of the object, as a share of its
    model's; a model may be a few hundredths too large, which moves a pose by as much in depth. size_sigma: how much
    that differs from image to image, because model and object differ in more than size. scale: how many times worse the
    edges are than they look."""

    size: float = 1.0
    size_sigma: float = 0.02
    scale: float = 1.0


class EdgeRefiner:
    """Of one object. box_corners (8, 3), metres. noise: of its edges. symmetries (4, 4 each): of the box; the object
    itself may be less symmetric, so all poses that they make are tried, where they are few. For one thread at a time.
    Raises InputError if embreex is not installed."""

    def __init__(
        self,
        mesh: Mesh,
        box_corners: Array,
        diameter: float,
        noise: EdgeNoise | None = None,
        symmetries: Sequence[Array] = (),
    ) -> None:
        self.mesh, self.box_corners, self.diameter = mesh, box_corners, diameter
        self.noise = noise or EdgeNoise()
        self._starts = (np.eye(4), *(symmetries if len(symmetries) < STARTS else ()))
        self._aligners: dict[tuple[int, int], Aligner] = {}

    def refine(self, look: Look, solution: Solution) -> Solution:
        """The likeliest pose by network and image; the network's where the image shows no edges of the model and no
        outline, or such that are far from it."""
        T = solution.T_camera_object
        fit = self.fit(look.image(), look.camera, T, solution.covariance, solution.visible)
        if fit is None:
            return solution
        T_object_center = transform(np.eye(3), self.mesh_center)
        T = fit.T_world_center @ inverse(T_object_center)
        covariance = _to_origin(fit.covariance, T, self.mesh_center) + about(T, self.mesh_center, *UNTOLD)
        expected = expected_projection_error(T, covariance, self.box_corners, look.camera)
        # The reprojection error stays that of the network: it tells how well its corners agree with each other.
        return replace(solution, T_camera_object=T, covariance=covariance, expected_error=expected)

    @property
    def mesh_center(self) -> Array:
        """(3,) of the mesh's box, object frame, metres."""
        low, high = self.mesh.box
        return np.asarray((low + high) / 2)

    def fit(
        self, image: Image, camera: Camera, T_camera_object: Array, covariance: Array, visible: Visible | None = None
    ) -> Fit | None:
        """What edges and colours in an image (H, W, 3) and a prior say: T_camera_object (4, 4) with its covariance (6,
        6) as in ObjectPose. visible: where the network sees the object; elsewhere something hides it. The fit's world
        is the camera. None where they say nothing, or contradict the prior."""
        center = transform(np.eye(3), self.mesh_center)
        T = T_camera_object @ center
        aligner = self._aligner(camera, float(np.linalg.norm(T[:3, 3])))
        pixels, inside, T_view_camera = aligner.patch(image, camera, T)
        view = aligner.view(pixels, inside, T_view_camera, _front(visible, aligner.crop, T_view_camera[:3, :3]))
        found: list[Fit] = []
        for S in self._starts:
            start = T_camera_object @ S
            known = _to_center(moved_origin(covariance, start[:3, 3] - T_camera_object[:3, 3]), start, self.mesh_center)
            prior = Fit(start @ center, known, self.noise.size, self.noise.size_sigma)
            end = settle(aligner, [view], prior, self.noise.scale)
            if end is not None and squared_deviations(prior, end.T_world_center) <= FARTHEST:
                found.append(end)
        if len(found) < 2:
            return found[0] if found else None
        return found[int(colour_agreements(aligner, [view], [(x.T_world_center, x.size) for x in found]).argmax())]

    def _aligner(self, camera: Camera, distance: float) -> Aligner:
        """Whose patch shows the object about as finely as the image does. A new one for each quarter of an octave."""
        step = round(4 * np.log2(distance / self.diameter))
        about = self.diameter * 2 ** (step / 4)
        native = MARGIN * self.diameter / about * camera.K[0, 0]
        side = int(np.clip(native, COARSEST, FINEST))
        if (step, side) not in self._aligners:
            if len(self._aligners) >= KEPT:
                self._aligners.pop(next(iter(self._aligners)))
            crop = Crop.around(self.diameter, about, MARGIN, side)
            self._aligners[step, side] = Aligner(self.mesh, crop, partial(Raycaster, rays=RAYS))
        return self._aligners[step, side]


def _front(visible: Visible | None, crop: Crop, R_view_camera: Array) -> NDArray[np.float32]:
    """Depth of what stands before the object in a patch (View.front): 0 where the network sees something else, farther
    than half a cell from where it sees the object, since it tells no finer; infinite elsewhere. (`alignment.hidden`
    then grows it by two pixels.)"""
    front = np.full((crop.size, crop.size), np.inf, np.float32)
    if visible is None:
        return front
    rays = crop.rays(cell_middles(crop.size, crop.size)) @ R_view_camera  # of its pixels, in the camera's frame
    other = visible.probability(rays.reshape(crop.size, crop.size, 3)) < SHOWN  # nor NaN: no window sees there
    half_a_cell = 0.5 * visible.size / visible.presence.shape[1] * crop.focal / visible.K[0, 0]
    kernel = np.ones((2 * round(half_a_cell) + 1,) * 2, np.uint8)
    front[cv2.erode(other.astype(np.uint8), kernel) > 0] = 0.0
    return front


def measure_edges(mesh: Mesh, box_corners: Array, diameter: float, instances: Sequence[Instance]) -> EdgeNoise:
    """By the edges in labelled images of the object. The scale is the one with which fits that begin at disturbed
    labels end nearest to the labels. Without enough images, or without embreex, all is as in EdgeNoise()."""
    shown = [x for x in instances if not x.visible_fraction < CLEAR]
    if len(shown) < LEAST or not raycaster_installed():
        return EdgeNoise()
    chosen = spread(shown, MOST)
    images = [read_image(x.image_path) for x in chosen]
    refiner = EdgeRefiner(mesh, box_corners, diameter)
    sizes = _sizes(refiner, chosen, images)
    if len(sizes) < LEAST or abs(np.median(sizes) - 1.0) > SIZE_FAR:
        return EdgeNoise()
    size = float(np.median(sizes))
    sigma = float(np.hypot(SIZE_SIGMA, 1.4826 * np.median(np.abs(sizes - size))))
    errors = {}
    for scale in SCALES:
        refiner.noise = EdgeNoise(size, sigma, scale)
        errors[scale] = _error(refiner, chosen, images)
    best = min(errors, key=lambda scale: errors[scale])
    return EdgeNoise(size, sigma, best)


def _sizes(refiner: EdgeRefiner, instances: Sequence[Instance], images: Sequence[Image]) -> Array:
    """Of the object in each image that tells it, as a share of the model's."""
    refiner.noise, found = EdgeNoise(1.0, SIZE_FAR), []
    for x, image in zip(instances, images, strict=True):
        T = x.T_camera_object
        fit = refiner.fit(image, x.camera, T, about(T, refiner.mesh_center, *LABEL))
        found += [] if fit is None else [fit.size]
    return np.array(found)


def _error(refiner: EdgeRefiner, instances: Sequence[Instance], images: Sequence[Image]) -> float:
    """ADD to the labels, metres, in the median, of fits that begin at poses as a network may give them."""
    rng, vertices, found = np.random.default_rng(0), refiner.mesh.vertices[::VERTEX], []
    for x, image in zip(instances, images, strict=True):
        T = x.T_camera_object
        prior = about(T, refiner.mesh_center, *NETWORK)
        e = rng.multivariate_normal(np.zeros(6), prior)
        start = transform(exp_so3(e[3:]) @ T[:3, :3], T[:3, 3] + e[:3])
        fit = refiner.fit(image, x.camera, start, prior)
        back = transform(np.eye(3), -refiner.mesh_center)
        end = start if fit is None else fit.T_world_center @ back
        found.append(float(np.linalg.norm(apply(end, vertices) - apply(T, vertices), axis=1).mean()))
    return float(np.median(found))


def about(T: Array, center: Array, across: float, along: float, turn: float) -> Array:
    """(6, 6) covariance of a pose T (4, 4) as in ObjectPose: of the object's `center` (3,) by `across` metres across
    the line of sight, by the share `along` of its distance, and of its rotation by `turn` radians."""
    c = apply(T, center[None])[0]
    distance = float(np.linalg.norm(c))
    sight = np.outer(c, c) / distance**2
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = across**2 * (np.eye(3) - sight) + (along * distance) ** 2 * sight
    covariance[3:, 3:] = turn**2 * np.eye(3)
    A = np.eye(6)
    A[:3, 3:] = skew(T[:3, :3] @ center)  # from the centre to the origin
    return A @ covariance @ A.T


def _to_center(covariance: Array, T: Array, center: Array) -> Array:
    """(6, 6) of a pose (4, 4), metres and radians about fixed axes (ObjectPose) -> of the object's `center` (3,), in
    the object's frame (alignment.Fit)."""
    A = _motion(T, center)
    return np.asarray(A @ covariance @ A.T)


def _to_origin(covariance: Array, T: Array, center: Array) -> Array:
    """The other way round."""
    A = np.linalg.inv(_motion(T, center))
    return np.asarray(A @ covariance @ A.T)


def _motion(T: Array, center: Array) -> Array:
    """(6, 6): from a small motion of the origin and turn, along and about the axes of the camera, to those of the
    centre along and about the object's."""
    R = T[:3, :3]
    A = np.zeros((6, 6))
    A[:3, :3] = A[3:, 3:] = R.T
    A[:3, 3:] = -R.T @ skew(R @ center)
    return A
