"""Training samples for h_Δ: a rendering or a photograph, seen by a camera that looks at where an estimate has the
object, and the object drawn there. Photographs with a known pose give any number of them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.geometry import Array, apply, exp_so3, inverse_intrinsics, rotation_looking_along, transform
from fm_pose_core.objects.comparison.update import compared, update_between, updated, window_at
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.samples import ObjectAssets, ObjectSource, PairSamples, SyntheticSamples, View, warp
from fm_pose_core.rendering.renderer import Renderer

SMALLEST, LARGEST = np.log(0.25), np.log(1.6)  # of estimates' errors, in UNITS: logarithms
USES, KEPT = 4, 512  # samples that a rendered estimate serves, and how many are kept


@dataclass(frozen=True)
class RefinerConfig:
    mapped: bool = knob(True, "Whether it compares g(f(x_r)) with the rendering's features; else f(x_r).")
    images: int = knob(60_000, "Images of its training; each is compared with a rendering.", 1)
    batch: int = knob(12, "Renderings, and as many photographs, in a batch.", 2, 1000)
    learning_rate: float = knob(1e-3, "Adam's step size at its peak.", 1e-8, 1.0)


@dataclass
class Guess:
    """A pose near the true one of a view, T_view_object (4, 4); the window that looks at it, with R_window_view (3, 3);
    and how the object looks there, (S, S, 4) premultiplied. left: how many samples it still serves."""

    view: View
    T_view_object: Array
    crop: Crop
    R_window_view: Array
    rgba: NDArray[np.uint8]
    left: int = USES


class Estimates:
    """Poses near the true ones of an object. A rendering serves several samples, turned about the line of sight."""

    def __init__(self, assets: ObjectAssets, rng: np.random.Generator) -> None:
        self.assets, self.rng = assets, rng
        self.renderer = Renderer(assets.mesh, assets.crop.K, assets.crop.size, assets.crop.size)
        self._guesses: dict[int, Guess] = {}  # by the identity of the view's surface
        self._shown: tuple[Guess, Array] | None = None

    def aim(self, view: View, in_plane: float) -> tuple[Array, Array]:
        """Look at a guess of the view's object: H (3, 3), view pixels -> window pixels, and K (3, 3) of the window in
        the view's frame. in_plane: largest turn about the line of sight, degrees."""
        guess = self._guesses.get(id(view.surface))
        if guess is None or guess.view.surface is not view.surface or guess.left == 0:
            guess = self._guess(view)
            while len(self._guesses) >= KEPT:
                self._guesses.pop(next(iter(self._guesses)))
            self._guesses[id(view.surface)] = guess
        guess.left -= 1
        turn = exp_so3(np.array([0.0, 0.0, np.radians(self.rng.uniform(-in_plane, in_plane))]))
        self._shown = guess, turn
        K = guess.crop.K @ turn @ guess.R_window_view
        return K @ inverse_intrinsics(view.K), K

    def _guess(self, view: View) -> Guess:
        center, rng = self.assets.center, self.rng
        size = np.exp(rng.uniform(SMALLEST, LARGEST))
        T = updated(view.T_view_object, rng.normal(0.0, size, 6), center, self.assets.crop)
        crop = window_at(T, center, self.assets.crop, self.assets.fill)
        R = rotation_looking_along(apply(T, center[None])[0]).T
        self.renderer.look_through(crop.K)
        rgba, _ = self.renderer.render(transform(R, np.zeros(3)) @ T)
        return Guess(view, T, crop, R, rgba)

    def compare(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """With what was aimed at last: window (S, S, 6), see `compared`; and the update (6,) to the true pose."""
        assert self._shown is not None
        guess, turn = self._shown
        K, T_window_view = guess.crop.K, transform(turn @ guess.R_window_view, np.zeros(3))
        size, H = len(image), K @ turn @ inverse_intrinsics(K)
        rgba = warp(guess.rgba, H, size)
        poses = T_window_view @ guess.T_view_object, T_window_view @ guess.view.T_view_object
        return compared(image, rgba), update_between(*poses, self.assets.center, guess.crop).astype(np.float32)

    def close(self) -> None:
        self.renderer.close()


class ComparedRenderings(SyntheticSamples):
    """T^S."""

    names = ("x_s", "y_s")

    def __init__(self, assets: ObjectAssets, *args: Any, **rest: Any) -> None:
        super().__init__(assets, *args, **rest)
        self.estimates = Estimates(assets, self.rng)

    def _aim(self, view: View) -> tuple[Array, Array]:
        return self.estimates.aim(view, self.config.viewpoints.in_plane)

    def draw(self) -> tuple[NDArray[Any], ...]:
        """See Estimates.compare."""
        return self.estimates.compare(super().draw()[0])

    def close(self) -> None:
        self.estimates.close()
        super().close()


class ComparedPhotographs(PairSamples):
    """T^R. The renderings of the true pose are left out: f and g do not learn."""

    names = ("x_r", "y_r")

    def __init__(self, assets: ObjectAssets, *args: Any, **rest: Any) -> None:
        super().__init__(assets, *args, **rest)
        self.estimates = Estimates(assets, self.rng)

    def _warp(self, view: View, K_window: Array, in_plane: float, rescale: float) -> tuple[Array, Array]:
        return self.estimates.aim(view, in_plane)

    def draw(self) -> tuple[NDArray[Any], ...]:
        """See Estimates.compare."""
        return self.estimates.compare(super().draw()[0])

    def close(self) -> None:
        self.estimates.close()
        super().close()


@dataclass(frozen=True)
class ComparisonSource(ObjectSource):
    """T^S and T^R of h_Δ."""

    SYNTHETIC: ClassVar[type[SyntheticSamples]] = ComparedRenderings
    PAIRS: ClassVar[type[PairSamples]] = ComparedPhotographs
