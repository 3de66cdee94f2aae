"""From an image, a camera and windows to the poses of objects."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.contract import CORNERS
from fm_pose_core.errors import expect
from fm_pose_core.objects.bundle import LEARNED, BundledObject, ObjectBundle
from fm_pose_core.objects.detection.detector import Detector
from fm_pose_core.objects.pnp import score
from fm_pose_core.objects.refine import InTurn, Look, Refiner
from fm_pose_core.objects.solver import ObjectSolver, Solution, see, see_again, solve_best
from fm_pose_core.objects.support import Stance, Standable, alike, supported
from fm_pose_core.rendering.mesh import load_mesh
from fm_pose_core.rendering.raycaster import raycaster_installed
from fm_pose_core.runtime import Backend, load_backend
from fm_pose_core.types import Camera, ObjectPose, Window

log = logging.getLogger(__name__)


class PoseEstimator:
    """bundle: the objects and their network. backend: the engine that runs it. config: gates and engine settings.
    refiner: improves each pose, in place of the one that `config` asks for.

    For one thread at a time: a backend keeps its buffers between calls.
    """

    def __init__(
        self,
        bundle: ObjectBundle,
        backend: Backend,
        config: EstimatorConfig | None = None,
        refiner: Refiner | None = None,
    ) -> None:
        self.bundle, self.backend, self.refiner = bundle, backend, refiner
        self.config = config or EstimatorConfig()
        self._detector: Detector | None = None
        self._warned = False  # that refiners cannot be had
        self._solvers: dict[tuple[str, int], ObjectSolver] = {}
        self._ways: dict[str, list[Stance]] = {}
        self._refiners: dict[tuple[str, str], Refiner] = {}

    @classmethod
    def load(cls, bundle_dir: str | Path, config: EstimatorConfig | None = None) -> "PoseEstimator":
        """Validate the bundle and load its network, and what refines its poses if `config` asks for it. Raises
        InputError for a bad bundle, a missing backend, or a refinement that cannot be had."""
        config = config or EstimatorConfig()
        bundle = ObjectBundle.load(bundle_dir)
        expect_refinable(bundle, config)
        estimator = cls(bundle, load_backend(bundle, config), config)
        for x in bundle.objects:
            estimator._refiner(x.name)  # now, not with the first image
        return estimator

    @property
    def can_detect(self) -> bool:
        """Whether the bundle holds a detector."""
        return self.bundle.detector is not None

    @property
    def detector(self) -> Detector:
        """Finds the objects in an image; loaded when it is first asked for. Raises InputError if the bundle has none,
        or if no engine loads it."""
        if self._detector is None:
            network = self.bundle.detector
            expect(network is not None, str(self.bundle.path), "a bundle with a detector", "one without")
            assert network is not None
            backend = load_backend(network, self.config)
            boxes = {x.name: x.box_corners for x in self.bundle.objects}
            self._detector = Detector(boxes, network.contract.size, backend.infer)
        return self._detector

    def find(self, image: NDArray[np.uint8], camera: Camera) -> list[tuple[Window, ObjectPose]]:
        """All objects that the bundle's detector finds in an image, and their poses; the likeliest first. Otherwise as
        `estimate_many`. Raises InputError if the bundle has no detector."""
        _check_image(image, camera)
        windows = [x.window for x in self.detector.detect(image, camera, self.config.min_detection)]
        return list(zip(windows, self.estimate_many(image, camera, windows), strict=True))

    def estimate(self, image: NDArray[np.uint8], camera: Camera, window: Window) -> ObjectPose:
        """Pose of the object that `window` centres on.

        image: (H, W, 3) uint8 RGB, of the size that `camera` says, distorted as it says. Raises InputError for an image
        that does not fit; a window far outside of the image or a prediction that is no good comes back with
        accepted=False and a reason.
        """
        return self.estimate_many(image, camera, [window])[0]

    def estimate_many(self, image: NDArray[np.uint8], camera: Camera, windows: Sequence[Window]) -> list[ObjectPose]:
        """One pose for each window of one image, of whatever objects, through the network in one batch. Otherwise as
        `estimate`."""
        _check_image(image, camera)
        near = [_is_near(window, camera) for window in windows]
        poses = iter(self._estimate(image, camera, [w for w, is_near in zip(windows, near, strict=True) if is_near]))
        return [next(poses) if is_near else _far_off(w, camera) for w, is_near in zip(windows, near, strict=True)]

    def _estimate(self, image: NDArray[np.uint8], camera: Camera, windows: Sequence[Window]) -> list[ObjectPose]:
        if not windows:
            return []
        solvers = [self._solver(window.object).for_distance(window.distance) for window in windows]
        looks = [solver.look(image, camera, window) for solver, window in zip(solvers, windows, strict=True)]
        scale = self.bundle.spread_scale
        sights = see(self.backend.infer, list(zip(solvers, looks, strict=True)))  # h(g(f(x)))
        both = see_again(self.backend.infer, sights, scale)
        found = [self._consistent(x) for x in solve_best(both, scale)]  # PnP
        found = self._refined(found, [own[0].look for own in both], windows, camera)
        return [self._judge(x) for x in self._supported(found, windows, camera)]

    def _refined(
        self, found: list[Solution], looks: Sequence[Look], windows: Sequence[Window], camera: Camera
    ) -> list[Solution]:
        """As the configuration asks for it. A refinement begins where the plane has the object, but what the plane says
        is no part of the prior: it counts afterwards, when the others are known better, and only once."""
        refiners = [self._refiner(window.object) for window in windows]
        if all(x is None for x in refiners):
            return found
        refined = list(found)
        nearer = self._supported(found, windows, camera)
        for i, refiner in enumerate(refiners):
            if refiner is not None and found[i].accepted:
                start = replace(found[i], T_camera_object=nearer[i].T_camera_object)
                end = refiner.refine(looks[i], start)
                refined[i] = found[i] if end is start else end
        return refined

    def _supported(self, found: list[Solution], windows: Sequence[Window], camera: Camera) -> list[Solution]:
        """The poses, better by the plane on which the objects stand."""
        known = [self.bundle.object(window.object) for window in windows]
        standing = [Standable(x.name, x.box_corners, self._stances(x)) for x in known]
        return supported(found, standing, camera)

    def _stances(self, x: BundledObject) -> list[Stance]:
        """All ways in which the object may stand; none where that is unknown, or where nobody wants to know."""
        if self.config.support == "none":
            return []
        if x.name not in self._ways:
            self._ways[x.name] = alike(x.entry.stances, x.symmetries)
        return self._ways[x.name]

    def _solver(self, name: str) -> ObjectSolver:
        key = (name, self.config.views)  # the configuration may change while the estimator runs
        if key not in self._solvers:
            x = self.bundle.object(name)
            solver = ObjectSolver(x.box_corners, x.crop, x.index, self.config.views, x.entry.fill)
            self._solvers[key] = replace(
                solver, distance_scale=self.bundle.distance_scale, widen=self.bundle.manifest.widened
            )
        return self._solvers[key]

    def _refiner(self, name: str) -> Refiner | None:
        """As `refine` of the configuration asks for it. Raises InputError where it cannot be had."""
        if self.refiner is not None:
            return self.refiner
        x = self.bundle.object(name)
        wanted = x.entry.refined_by if self.config.refine == "auto" else self.config.refine
        if self.config.refine == "auto" and wanted and not raycaster_installed():
            if not self._warned:
                log.warning("refine: auto: poses stay unrefined; better ones need: pip install embreex trimesh")
            self._warned, wanted = True, ""
        if wanted in ("none", ""):
            return None
        key = x.name, wanted
        if key not in self._refiners:
            expect_refinable(self.bundle, self.config)
            learned = (self._by_features(x),) if wanted in LEARNED else ()
            drawn = (self._by_edges(x),) if wanted != "features" else ()
            self._refiners[key] = InTurn((*learned, *drawn))
        return self._refiners[key]

    def _by_edges(self, x: BundledObject) -> Refiner:
        from fm_pose_core.objects.edges import EdgeNoise, EdgeRefiner

        assert x.mesh_path is not None
        noise = EdgeNoise(x.entry.size, x.entry.size_sigma, x.entry.edge_scale)
        return EdgeRefiner(load_mesh(x.mesh_path), x.box_corners, x.diameter, noise, x.symmetries)

    def _by_features(self, x: BundledObject) -> Refiner:
        from fm_pose_core.objects.comparison.refiner import FeatureRefiner

        assert x.mesh_path is not None
        infer, scale = self._comparison.infer, self.bundle.manifest.refiner_scale
        return FeatureRefiner(infer, load_mesh(x.mesh_path), x.box_corners, x.crop, x.entry.fill, spread_scale=scale)

    @cached_property
    def _comparison(self) -> Backend:
        network = self.bundle.refiner
        assert network is not None
        return load_backend(network, self.config)

    def _consistent(self, solution: Solution) -> Solution:
        """Without a pose where corners contradict each other: there is nothing to refine, and no evidence of a
        plane."""
        error, most = solution.reprojection_error, self.config.max_reprojection_error
        if not solution.accepted or error <= most:
            return solution
        return replace(solution, reason=f"reprojection error {error:.1f} px is above {most:g} px")

    def _judge(self, x: Solution) -> ObjectPose:
        """With its score, and refused where that is low."""
        confidence, reason = score(x.expected_error), x.reason
        if not reason and not confidence >= self.config.min_score:  # nor NaN
            reason = f"score {confidence:.2f} is below {self.config.min_score:g}"
        T, corners, error = x.T_camera_object, x.corners, x.reprojection_error
        return ObjectPose(T, corners, error, x.covariance, confidence, not reason, reason, x.visible)


def expect_refinable(bundle: ObjectBundle, config: EstimatorConfig) -> None:
    """Raise InputError if the configuration asks for a refinement that this bundle or machine cannot have."""
    asked = config.refine
    if asked in ("none", "auto"):  # auto: as far as it can be had
        return
    wanted = "none, auto, or the Python packages embreex and trimesh"
    expect(raycaster_installed(), "refine", wanted, f"{asked} without them; try: pip install embreex trimesh")
    learned = asked not in LEARNED or bundle.refiner is not None
    expect(learned, str(bundle.path), f"a bundle with a refiner, for refine: {asked}", "one without")
    for x in bundle.objects:
        expect(x.mesh_path is not None, "refine", f"a mesh of {x.name} in the bundle", "none")


def _check_image(image: NDArray[np.uint8], camera: Camera) -> None:
    expect(isinstance(image, np.ndarray), "image", "a numpy array", type(image).__name__)
    expected = (camera.height, camera.width, 3)
    fits = image.shape == expected and image.dtype == np.uint8
    if not fits:  # the words take longer than the comparison
        expect(False, "image", f"uint8 {expected} as the camera says", f"{image.dtype} {image.shape}")


def _is_near(window: Window, camera: Camera) -> bool:
    """Whether it can show a part of the image."""
    return -camera.width <= window.u <= 2 * camera.width and -camera.height <= window.v <= 2 * camera.height


def _far_off(window: Window, camera: Camera) -> ObjectPose:
    centre = f"the window's centre ({window.u:g}, {window.v:g}) is far outside of the image"
    unknown = np.full((6, 6), np.nan)
    corners = np.full((CORNERS, 2), np.nan)
    return ObjectPose(np.eye(4), corners, np.inf, unknown, 0.0, False, f"{centre}, {camera.width}x{camera.height}")
