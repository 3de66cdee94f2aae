"""Training samples of hands: T^S, and T^M, whose real halves are T^R (sections 3.1 and 4.2). Endless, never the same
twice (hands/views.py)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array
from fm_pose_core.hands.absent import Absent, elsewhere
from fm_pose_core.hands.crop import HandCrop, warped
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.locate import annotated_hand, centre_of_mass
from fm_pose_core.hands.model.prior import PoseConfig, PosePrior
from fm_pose_core.hands.model.skeleton import Landmark
from fm_pose_core.hands.model.skin import SkinnedHand
from fm_pose_core.hands.views import HandView, HandWindowsConfig, draw_window, patch_camera
from fm_pose_core.learning.ring import Ring
from fm_pose_core.rendering.renderer import DepthRenderer
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]


@dataclass(frozen=True)
class HandSyntheticConfig(HandWindowsConfig):
    """T^S. Depth maps are rendered without noise (section 4.2)."""

    poses: PoseConfig = field(default_factory=PoseConfig)


class HandRenderer:
    """Renders patches of one hand."""

    def __init__(self, hand: SkinnedHand, landmarks: tuple[Landmark, ...], crop: HandCrop) -> None:
        self.hand, self.crop = hand, crop
        self.bone, self.offset = hand.skeleton.on_bones(landmarks)
        pixels = patch_camera(crop, np.array([0.0, 0.0, 1.0])).width
        self.renderer = DepthRenderer(len(hand.vertices), hand.faces, pixels, pixels)

    def render(self, pose: Array) -> HandView:
        """The hand alone, its centre at its centre of mass."""
        joints = self.hand.skeleton.points(pose[None], self.bone, self.offset)[0]
        camera = patch_camera(self.crop, joints.mean(0))
        depth = self.renderer.render(self.hand.posed(pose), camera.K)
        center = centre_of_mass(depth, camera, joints.mean(0), 2 * self.crop.half)
        return HandView([depth], camera, joints.mean(0) if center is None else center, joints)

    def render_as(self, pose: Array, camera: Camera) -> Depth:
        """The depth in a camera of the patch's size."""
        return self.renderer.render(self.hand.posed(pose), camera.K)


class HandSamples:
    """T^S: renderings of hands, some shapes in turn."""

    names: tuple[str, ...] = ("x_s", "y_s")

    def __init__(
        self,
        hands: list[tuple[SkinnedHand, tuple[Landmark, ...]]],
        given: Array,
        crop: HandCrop,
        config: HandSyntheticConfig,
        rng: np.random.Generator,
        ring: int = 256,
        absent: Absent | None = None,
    ) -> None:
        """absent: where a share of windows without a hand comes from."""
        self.crop, self.config, self.rng, self.absent = crop, config, rng, absent
        self.renderers = [HandRenderer(hand, landmarks, crop) for hand, landmarks in hands]
        self.priors = [PosePrior(hand.skeleton, config.poses, given) for hand, _ in hands]
        self.ring: Ring[HandView] = Ring(ring, config.uses_per_view, rng)

    def draw(self) -> tuple[Depth, NDArray[np.float32]]:
        """-> window (S, S, 1) float32 in [-1, 1]; joints (J, 3) float32 relative to the cube's centre, metres, NaN
        where there is no hand."""
        if self.ring.wants_more():
            self.ring.add(self._view())
        (window,), joints = draw_window(self.ring.draw(), self.crop, self.config, self.rng)
        return window[..., None], joints.astype(np.float32)

    def _view(self) -> HandView:
        if self.absent is not None and self.rng.uniform() < self.config.absent:
            return self.absent.rendered()
        k = int(self.rng.integers(len(self.renderers)))
        return self.renderers[k].render(self.priors[k].draw(self.rng))

    def close(self) -> None:
        for r in self.renderers:
            r.renderer.close()
        if self.absent is not None:
            self.absent.close()


class HandPairs:
    """T^M: a real depth map, and the rendering of the hand model under the same pose. The real half is T^R."""

    names: tuple[str, ...] = ("x_r", "x_m", "y_r")

    def __init__(
        self,
        frames: HandFrames,
        hands: list[tuple[SkinnedHand, tuple[Landmark, ...]]],
        of_frame: NDArray[np.int64],
        poses: list[Array],
        crop: HandCrop,
        config: HandWindowsConfig,
        rng: np.random.Generator,
        ring: int = 256,
        absent: Absent | None = None,
    ) -> None:
        """of_frame (N,): which of `hands` a frame shows; poses: of each frame. absent: where half of the windows
        without a hand come from; the others are cut beside the hands of the frames."""
        self.frames, self.of_frame, self.poses, self.absent = frames, of_frame, poses, absent
        self.crop, self.config, self.rng = crop, config, rng
        self.renderers = [HandRenderer(hand, landmarks, crop) for hand, landmarks in hands]
        self.ring: Ring[HandView] = Ring(ring, config.uses_per_view, rng)

    def _read(self) -> HandView:
        i = int(self.rng.integers(len(self.frames)))
        if self.absent is not None and self.rng.uniform() < self.config.absent:
            beside = elsewhere(self.frames, i, self.crop, self.rng) if self.rng.uniform() < 0.5 else None
            return beside or self.absent.seen()
        renderer, camera = self.renderers[self.of_frame[i]], self.frames.camera
        joints = self.frames.joints[i]
        center, depth, _ = annotated_hand(self.frames.depth(i), camera, joints, 2 * self.crop.half)
        patch = patch_camera(self.crop, center)
        M = patch.K @ np.linalg.inv(camera.K)
        real = warped(depth, camera, M, patch.width)
        return HandView([real, renderer.render_as(self.poses[i], patch)], patch, center, joints)

    def draw(self) -> tuple[Depth, Depth, NDArray[np.float32]]:
        """-> real and synthetic window (S, S, 1) float32; joints (J, 3) float32 relative to the cube's centre, metres,
        NaN where there is no hand."""
        if self.ring.wants_more():
            self.ring.add(self._read())
        (real, synthetic), joints = draw_window(self.ring.draw(), self.crop, self.config, self.rng)
        return real[..., None], synthetic[..., None], joints.astype(np.float32)

    def close(self) -> None:
        for r in self.renderers:
            r.renderer.close()
        if self.absent is not None:
            self.absent.close()


@dataclass(frozen=True)
class HandSource:
    """What a worker needs to make samples. hands: shapes for T^S; given: poses to begin with (N, 6 + A); frames,
    of_frame, poses, fitted: for T^M; presence: whether some windows show no hand."""

    crop: HandCrop
    synthetic: HandSyntheticConfig
    real: HandWindowsConfig
    hands: list[tuple[SkinnedHand, tuple[Landmark, ...]]]
    given: Array
    frames: HandFrames | None = None
    fitted: list[tuple[SkinnedHand, tuple[Landmark, ...]]] = field(default_factory=list)
    of_frame: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    poses: list[Array] = field(default_factory=list)
    presence: bool = False

    def open(
        self, synthetic: bool, pairs: bool, rng: np.random.Generator
    ) -> tuple[HandSamples | None, HandPairs | None]:
        joints = len(self.hands[0][1])

        def absent() -> Absent | None:
            return Absent(self.crop, joints, rng) if self.presence else None

        T_S, T_M = None, None
        if synthetic:
            T_S = HandSamples(self.hands, self.given, self.crop, self.synthetic, rng, absent=absent())
        if pairs:
            assert self.frames is not None
            of = (self.frames, self.fitted, self.of_frame, self.poses)
            T_M = HandPairs(*of, self.crop, self.real, rng, absent=absent())
        return T_S, T_M
