"""From a depth map and a camera to the joints of the hand."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import HandEstimatorConfig
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.bundle import HandBundle
from fm_pose_core.hands.crop import HandCrop, HandCropConfig
from fm_pose_core.hands.locate import Candidate, Locator, Search, SearchConfig, centre_of_mass
from fm_pose_core.hands.solver import HandSolver
from fm_pose_core.runtime import Backend, load_backend
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]
EXPECTED_ERROR = 0.02  # metres: the mean joint error at whose expectation the score is 0.5


@dataclass(frozen=True)
class HandPose:
    """joints (J, 3) metres in the camera's optical frame, in the order of the bundle's names; spread (J,): expected
    standard deviation of each, metres; center (3,): of the cube; presence: the probability that a hand is there, 1 of
    networks that do not tell; score in [0, 1]: presence, times 0.5 where a mean error of 20 mm is expected; accepted:
    False if a gate refused the pose, with a reason."""

    joints: Array
    spread: Array
    center: Array
    score: float
    accepted: bool
    reason: str = ""
    presence: float = 1.0


class HandEstimator:
    """bundle: the network for hands. backend: the engine that runs it. search: where hands are looked for and accepted.
    refine: cut a second time, around the centre of mass of what lies near the joints of the first answer. mirror: the
    hands are of the other side than the bundle's. Raises InputError for the configuration of another estimator.

    For one thread at a time: a backend keeps its buffers between calls.
    """

    def __init__(
        self,
        bundle: HandBundle,
        backend: Backend,
        config: HandEstimatorConfig | None = None,
        search: SearchConfig | None = None,
        refine: bool = False,
        mirror: bool = False,
    ) -> None:
        self.bundle, self.backend = bundle, backend
        self.config, self.search = config or HandEstimatorConfig(), search or SearchConfig()
        expect(isinstance(self.config, HandEstimatorConfig), "config", "a HandEstimatorConfig", type(config).__name__)
        self.refine, self.mirror = refine, mirror
        self._crop = HandCrop(HandCropConfig(bundle.hand.size, bundle.hand.cube))

    @classmethod
    def load(
        cls,
        bundle_dir: str | Path,
        config: HandEstimatorConfig | None = None,
        search: SearchConfig | None = None,
        refine: bool = False,
        mirror: bool = False,
    ) -> "HandEstimator":
        """Validate the bundle and load its network. Raises InputError for a bad bundle or a missing backend."""
        config = config or HandEstimatorConfig()
        bundle = HandBundle.load(bundle_dir)
        return cls(bundle, load_backend(bundle, config), config, search, refine, mirror)

    def estimate(self, depth: Depth, camera: Camera, locator: Locator | None = None) -> HandPose | None:
        """The hand in a depth map (H, W) float32 metres, 0, NaN or infinity where there is none; None if the locator
        finds no hand.

        locator: says where the hand may be; without it the estimator's own search. Raises InputError for a depth map
        that does not fit the camera.
        """
        _check_depth(depth, camera)
        cube = self.bundle.hand.cube
        candidates = (locator or Search(self.search, cube)).locate(depth, camera)
        if not candidates:
            return None
        hand = candidates[0] if len(candidates) == 1 else self._likeliest(candidates, camera)
        pose = self._estimate(hand.depth, camera, hand.center)
        if self.refine and (center := centre_of_mass(hand.depth, camera, pose.joints.mean(0), cube)) is not None:
            pose = self._estimate(hand.depth, camera, center)
        return self._judged(pose)

    def _likeliest(self, candidates: list[Candidate], camera: Camera) -> Candidate:
        """The one with the highest score, its centre moved to the centre of mass about the joints there, if there is
        one."""
        solver = HandSolver(self._crop, 1, self.mirror)
        windows = [solver.look(c.depth, camera, c.center) for c in candidates]
        outputs = self.backend.infer(np.concatenate(windows))
        each = [{k: v[i : i + 1] for k, v in outputs.items()} for i in range(len(candidates))]
        answers = [solver.decode(x, c.center) for x, c in zip(each, candidates, strict=True)]
        scores = [
            self._score(deviation, solver.presence(x), c.handicap)
            for (_, deviation), x, c in zip(answers, each, candidates, strict=True)
        ]
        best = int(np.argmax(np.nan_to_num(scores)))  # NaN: the network's answer was no good
        chosen = candidates[best]
        center = centre_of_mass(chosen.depth, camera, answers[best][0].mean(0), self.bundle.hand.cube)
        return chosen if center is None else chosen._replace(center=center)

    def _estimate(self, depth: Depth, camera: Camera, center: Array) -> HandPose:
        solver = HandSolver(self._crop, self.config.views, self.mirror)
        outputs = self.backend.infer(solver.look(depth, camera, center))
        joints, deviation = solver.decode(outputs, center)
        presence = solver.presence(outputs)
        score = self._score(deviation, presence)
        return HandPose(joints, deviation * self.bundle.spread_scale, center, score, True, presence=presence)

    def _score(self, deviation: Array, presence: float, handicap: float = 1.0) -> float:
        """handicap: times which the expected error counts."""
        # The mean of a three-dimensional normal distribution's distance is 1.6 deviations.
        error = 1.6 * handicap * self.bundle.spread_scale * float(deviation.mean())
        return presence / (1.0 + (error / EXPECTED_ERROR) ** 2)

    def _judged(self, pose: HandPose) -> HandPose:
        """The gates."""
        reason, cube, depths = "", self.bundle.hand.cube, pose.joints[:, 2]
        # A joint beyond the cube is none, whatever the network thinks of it; neither is one that is not finite.
        inside = (np.linalg.norm(pose.joints - pose.center, axis=1) <= cube).all() and np.isfinite(pose.score)
        if not inside:
            reason = "the network's joints are not in the cube"
        elif not (depths >= self.search.nearest).all() or not (depths <= self.search.farthest).all():
            got = f"joints are {depths.min():.2f} to {depths.max():.2f} m away"
            reason = f"{got}, and hands are looked for from {self.search.nearest:g} to {self.search.farthest:g} m"
        elif pose.presence < self.config.min_presence:
            reason = f"it is hardly a hand: presence {pose.presence:.3g} is below {self.config.min_presence:g}"
        elif pose.score < self.config.min_score:
            reason = f"score {pose.score:.2f} is below {self.config.min_score:g}"
        return replace(pose, accepted=not reason, reason=reason)


def _check_depth(depth: Depth, camera: Camera) -> None:
    expected = (camera.height, camera.width)
    fits = isinstance(depth, np.ndarray) and depth.shape == expected and depth.dtype == np.float32
    got = f"{getattr(depth, 'dtype', type(depth).__name__)} {getattr(depth, 'shape', '')}"
    expect(fits, "depth", f"float32 {expected} as the camera says", got)
