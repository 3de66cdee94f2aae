"""Training samples of hands: T^S, and T^M, whose real halves are T^R (sections 3.1 and 4.2). Endless, never the same
twice.

A hand is rendered (or a depth map read) once and serves several samples: turning the camera about its optical axis
turns the window about its middle and leaves the depth as it is, and another centre of the cube is another cut; labels
stay exact.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.geometry import Array
from fm_pose_core.hands.crop import HandCrop, warped
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.locate import annotated_hand, centre_of_mass
from fm_pose_core.hands.model.prior import PoseConfig, PosePrior
from fm_pose_core.hands.model.skeleton import Landmark
from fm_pose_core.hands.model.skin import SkinnedHand
from fm_pose_core.learning.ring import Ring
from fm_pose_core.rendering.renderer import DepthRenderer
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]
PATCH = 1.6  # width of what is rendered, relative to the cube: room for other centres and for turning


@dataclass(frozen=True)
class HandWindowsConfig:
    """How windows are cut: those of T^R and T^M, and with poses those of T^S."""

    in_plane: float = knob(180.0, "Largest turn of the camera about its axis, degrees.", 0.0, 180.0)
    displacement: float = knob(
        0.015, "Standard deviation of the cube's centre from the centre of mass, metres, in each direction.", 0.0, 0.2
    )
    astray: float = knob(
        0.15, "Share of windows whose centre is four times as far off: h learns to expect large errors there.", 0.0, 1.0
    )
    rescale: float = knob(0.1, "Hands are larger or smaller by a factor in [1 - x, 1 + x].", 0.0, 0.5)
    uses_per_view: int = knob(6, "Samples made of each hand that is rendered, or depth map that is read.", 1, 1000)


@dataclass(frozen=True)
class HandSyntheticConfig(HandWindowsConfig):
    """T^S. Depth maps are rendered without noise (section 4.2)."""

    poses: PoseConfig = field(default_factory=PoseConfig)


@dataclass
class HandView:
    """layers: depth patches (P, P) metres of one camera; center (3,): the hand's centre; joints (J, 3); all metres, in
    that camera's frame."""

    layers: list[Depth]
    camera: Camera
    center: Array
    joints: Array


def draw_window(
    view: HandView, crop: HandCrop, config: HandWindowsConfig, rng: np.random.Generator
) -> tuple[list[Depth], Array]:
    """Windows (S, S) in [-1, 1] of each layer, cut at one random centre and turned by one angle; and the joints (J, 3)
    relative to the cube's centre, metres."""
    far = 4.0 if rng.uniform(0, 1) < config.astray else 1.0
    center = view.center + rng.normal(scale=far * config.displacement, size=3)
    center[2] = max(center[2], crop.half)
    angle = np.radians(rng.uniform(-config.in_plane, config.in_plane))
    s = 1.0 + rng.uniform(-config.rescale, config.rescale)
    # A larger hand is a hand in a smaller cube.
    M = crop.turning(angle, s) @ np.vstack([crop.affine(view.camera, center), [0, 0, 1]])
    windows = [crop.normalise(warped(layer, view.camera, M, crop.size), center[2], s) for layer in view.layers]
    return windows, crop.turned(view.joints - center, angle, s)


class HandRenderer:
    """Renders patches of one hand."""

    def __init__(self, hand: SkinnedHand, landmarks: tuple[Landmark, ...], crop: HandCrop) -> None:
        self.hand, self.crop = hand, crop
        self.bone, self.offset = hand.skeleton.on_bones(landmarks)
        self.pixels = round(PATCH * crop.size)
        self.renderer = DepthRenderer(len(hand.vertices), hand.faces, self.pixels, self.pixels)

    def render(self, pose: Array) -> HandView:
        """The hand alone, its centre at its centre of mass."""
        joints = self.hand.skeleton.points(pose[None], self.bone, self.offset)[0]
        camera = self.patch_camera(joints.mean(0))
        depth = self.renderer.render(self.hand.posed(pose), camera.K)
        center = centre_of_mass(depth, camera, joints.mean(0), 2 * self.crop.half)
        return HandView([depth], camera, joints.mean(0) if center is None else center, joints)

    def render_as(self, pose: Array, camera: Camera) -> Depth:
        """The depth in a camera of the patch's size."""
        return self.renderer.render(self.hand.posed(pose), camera.K)

    def patch_camera(self, center: Array) -> Camera:
        """A camera whose patch around `center` is PATCH cubes wide."""
        f = self.crop.size * center[2] / (2 * self.crop.half)
        u, v = f * center[:2] / center[2]
        middle = (self.pixels - 1) / 2
        return Camera(np.array([[f, 0, middle - u], [0, f, middle - v], [0, 0, 1]]), self.pixels, self.pixels)


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
    ) -> None:
        self.crop, self.config, self.rng = crop, config, rng
        self.renderers = [HandRenderer(hand, landmarks, crop) for hand, landmarks in hands]
        self.priors = [PosePrior(hand.skeleton, config.poses, given) for hand, _ in hands]
        self.ring: Ring[HandView] = Ring(ring, config.uses_per_view, rng)

    def draw(self) -> tuple[Depth, NDArray[np.float32]]:
        """-> window (S, S, 1) float32 in [-1, 1]; joints (J, 3) float32 relative to the cube's centre, metres."""
        if self.ring.wants_more():
            k = int(self.rng.integers(len(self.renderers)))
            self.ring.add(self.renderers[k].render(self.priors[k].draw(self.rng)))
        (window,), joints = draw_window(self.ring.draw(), self.crop, self.config, self.rng)
        return window[..., None], joints.astype(np.float32)

    def close(self) -> None:
        for r in self.renderers:
            r.renderer.close()


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
    ) -> None:
        """of_frame (N,): which of `hands` a frame shows; poses: of each frame."""
        self.frames, self.of_frame, self.poses = frames, of_frame, poses
        self.crop, self.config, self.rng = crop, config, rng
        self.renderers = [HandRenderer(hand, landmarks, crop) for hand, landmarks in hands]
        self.ring: Ring[HandView] = Ring(ring, config.uses_per_view, rng)

    def _read(self) -> HandView:
        i = int(self.rng.integers(len(self.frames)))
        renderer, camera = self.renderers[self.of_frame[i]], self.frames.camera
        joints = self.frames.joints[i]
        center, depth, _ = annotated_hand(self.frames.depth(i), camera, joints, 2 * self.crop.half)
        patch = renderer.patch_camera(center)
        M = patch.K @ np.linalg.inv(camera.K)
        real = warped(depth, camera, M, patch.width)
        return HandView([real, renderer.render_as(self.poses[i], patch)], patch, center, joints)

    def draw(self) -> tuple[Depth, Depth, NDArray[np.float32]]:
        """-> real and synthetic window (S, S, 1) float32; joints (J, 3) float32 relative to the cube's centre,
        metres."""
        if self.ring.wants_more():
            self.ring.add(self._read())
        (real, synthetic), joints = draw_window(self.ring.draw(), self.crop, self.config, self.rng)
        return real[..., None], synthetic[..., None], joints.astype(np.float32)

    def close(self) -> None:
        for r in self.renderers:
            r.renderer.close()


@dataclass(frozen=True)
class HandSource:
    """What a worker needs to make samples. hands: shapes for T^S; given: poses to begin with (N, 6 + A); frames,
    of_frame, poses, fitted: for T^M."""

    crop: HandCrop
    synthetic: HandSyntheticConfig
    real: HandWindowsConfig
    hands: list[tuple[SkinnedHand, tuple[Landmark, ...]]]
    given: Array
    frames: HandFrames | None = None
    fitted: list[tuple[SkinnedHand, tuple[Landmark, ...]]] = field(default_factory=list)
    of_frame: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    poses: list[Array] = field(default_factory=list)

    def open(
        self, synthetic: bool, pairs: bool, rng: np.random.Generator
    ) -> tuple[HandSamples | None, HandPairs | None]:
        T_S = HandSamples(self.hands, self.given, self.crop, self.synthetic, rng) if synthetic else None
        T_M = None
        if pairs:
            assert self.frames is not None
            T_M = HandPairs(self.frames, self.fitted, self.of_frame, self.poses, self.crop, self.real, rng)
        return T_S, T_M
