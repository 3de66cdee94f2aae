"""Training samples, endless and never the same twice: T^S, and T^M, whose real halves are T^R (section 3.1 and 4.1).

A view is rendered (or prepared from a photograph) once and serves several samples through exact warps: a rotation of
the camera about its own centre is a homography of the image, so the label is exact as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, inverse, inverse_intrinsics, project, transform
from fm_pose_core.learning.ring import Ring
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.photographs import RealView, photo_colours, surface_points
from fm_pose_core.objects.surroundings import Surroundings, blend, over
from fm_pose_core.objects.viewpoints import ViewpointConfig, random_rotation, random_viewpoint, window_rotation
from fm_pose_core.rendering.appearance import AppearanceConfig, repaint, shade
from fm_pose_core.rendering.backgrounds import Backgrounds
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.renderer import Renderer

Image = NDArray[np.uint8]
JITTER = np.log(1.25)  # logarithm: how the object's size varies in zoomed windows


@dataclass(frozen=True)
class SyntheticConfig:
    """T^S (section 4.1)."""

    viewpoints: ViewpointConfig = field(default_factory=ViewpointConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    photographed: float = knob(
        0.0, "Share of renderings near the poses of the labelled photographs (beyond the paper).", 0.0, 1.0
    )
    photographed_angle: float = knob(40.0, "Largest rotation away from them, degrees.", 0.0, 180.0)
    displacement: float = knob(
        10.0, "Largest displacement of the object from the window's centre, window pixels.", 0.0, 60.0
    )
    uses_per_view: int = knob(
        8, "Samples made of each rendered view, by in-plane rotation, displacement and background.", 1, 1000
    )


@dataclass(frozen=True)
class RealConfig:
    """T^R and T^M. The paper: the segmented object, slightly rescaled, slightly moved, on a random background."""

    rescale: float = knob(0.1, "The object is rescaled by a factor in [1 - x, 1 + x].", 0.0, 0.5)
    displacement: float = knob(
        10.0, "Largest displacement of the object from the window's centre, window pixels.", 0.0, 60.0
    )
    in_plane: float = knob(0.0, "Largest in-plane rotation of a real image, degrees (beyond the paper).", 0.0, 180.0)
    plain: float = knob(0.0, "Share of real samples that keep their own background and occluders.", 0.0, 1.0)
    novel_views: float = knob(
        0.0, "Share of real samples shown from a new viewpoint by the photo-coloured mesh (beyond the paper).", 0.0, 1.0
    )
    novel_angle: float = knob(25.0, "Largest rotation away from the photographed viewpoint, degrees.", 0.0, 180.0)
    uses_per_view: int = knob(8, "Samples made of each novel view.", 1, 1000)
    novel_anywhere: float = knob(
        0.0, "Share of the novel views that are drawn from the whole synthetic range of viewpoints.", 0.0, 1.0
    )
    paired_light: float = knob(
        0.0, "Probability that the CAD rendering of a pair is lit as in T^S; the paper's are not.", 0.0, 1.0
    )
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)


@dataclass
class View:
    """Layers that share one camera: `layers` maps a name to (P, P, C) uint8; surface (P, P, 3) float16: the object's
    point seen in each pixel, object frame, metres, NaN where there is none; T_view_object (4, 4); K (3, 3); hidden
    (P, P): where something stands before the object, None: nowhere."""

    layers: dict[str, Image]
    surface: NDArray[np.float16]
    T_view_object: Array
    K: Array
    hidden: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ObjectAssets:
    """All that is drawn of one object. index: of its output among the network's. corners: (8, 3) of its box, metres.
    symmetries: (4, 4) each, without the identity. fill: the distance at which the object fills its window, metres, if
    there is to be a second look; else 0; zoomed: share of the training windows that are of such a look. views, colours:
    from photographs.prepare_real_views with the rule `patch`; empty without real images."""

    mesh: Mesh
    corners: Array
    crop: Crop
    index: int = 0
    symmetries: tuple[Array, ...] = ()
    fill: float = 0.0
    zoomed: float = 0.5
    patch: Crop | None = None
    views: list[RealView] = field(default_factory=list)
    colours: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))

    @property
    def center(self) -> Array:
        """(3,) of the box, metres."""
        return self.corners.mean(0)

    @property
    def diagonal(self) -> float:
        """Of the box, metres."""
        return float(np.linalg.norm(np.ptp(self.corners, axis=0)))


class Labeller:
    """Labels of one object, for a network that may know several; corners in window pixels.

    equivalents: how many labels each sample has: the object's symmetries and the identity first, filled up with it. A
    sample of any of them may be answered by each (the cheapest counts, learning/heads.py).
    """

    def __init__(self, assets: ObjectAssets, equivalents: int) -> None:
        S = [np.eye(4), *assets.symmetries]
        S += [np.eye(4)] * (equivalents - len(S))
        self.index = np.array(assets.index)  # () int64
        self.center, self.size = assets.center, assets.crop.size
        self.box = assets.corners.astype(np.float32)
        self.corners = np.stack([apply(s, assets.corners) for s in S])  # (S, 8, 3)
        self.frames = np.stack([inverse(s)[:3] for s in S]).astype(np.float32)  # (S, 3, 4)

    def label(self, K: Array, T_view_object: Array) -> NDArray[np.float32]:
        """(S, 8, 2): the corners' pixels for a camera K (3, 3) in each of the equivalent poses."""
        points = apply(T_view_object, self.corners.reshape(-1, 3))
        return project(K, points).reshape(*self.corners.shape[:2], 2).astype(np.float32)

    def distance(self, K: Array, T_view_object: Array) -> NDArray[np.float32]:
        """(): the logarithm of the object's distance from a camera K (3, 3), which may be turned; 0 where the object
        would cover the window (contract.object_contract)."""
        crop = Crop(self.size, float(np.sqrt(np.linalg.det(K))))
        distance = np.linalg.norm(apply(T_view_object, self.center[None]))
        return np.log(distance / crop.unit_distance(self.corners[0])).astype(np.float32)

    def labels(self, K: Array, T_view_object: Array) -> tuple[NDArray[Any], ...]:
        """For a camera K (3, 3): corners, distance, the object's index, the frames (S, 3, 4) of the equivalent poses,
        the whole camera (3, 4), and the box (8, 3), metres; float32 but for the index."""
        camera = (K @ T_view_object[:3]).astype(np.float32)
        return self.label(K, T_view_object), self.distance(K, T_view_object), self.index, self.frames, camera, self.box


class Zoom:
    """The windows of training samples: those of a first look, and, where there is a second one, a share of windows that
    the object fills, within a quarter (ObjectSolver.second_look)."""

    def __init__(self, assets: ObjectAssets, rng: np.random.Generator) -> None:
        self.assets, self.rng = assets, rng

    def draw(self, T_view_object: Array) -> Crop:
        """The rule of a window on an object at this pose (4, 4)."""
        if not self.assets.fill or self.rng.uniform() >= self.assets.zoomed:
            return self.assets.crop
        distance = float(apply(T_view_object, self.assets.center[None])[0, 2])
        return self.assets.crop.zoomed(distance / self.assets.fill * np.exp(self.rng.uniform(-JITTER, JITTER)))


class SyntheticSamples:
    """T^S: renderings over random backgrounds, with their corners. Labels as heads.CornerVotes and
    losses.SurfacePoints want them."""

    names: tuple[str, ...] = ("x_s", "y_s", "d_s", "k_s", "e_s", "m_s", "b_s", "p_s")

    def __init__(
        self,
        assets: ObjectAssets,
        config: SyntheticConfig,
        around: Surroundings,
        rng: np.random.Generator,
        equivalents: int = 1,
        ring: int = 256,
        cell: int = 16,
    ) -> None:
        self.crop, self.center, self.cell = assets.crop, assets.center, cell
        self.config, self.around, self.rng, self.index = config, around, rng, assets.index
        self.photographed = [v.T_view_object for v in assets.views]
        self.labeller = Labeller(assets, equivalents)
        self.renderer = Renderer(assets.mesh, self.crop.K, self.crop.size, self.crop.size)
        self._ring: Ring[View] = Ring(ring, config.uses_per_view, rng)
        self.zoom = Zoom(assets, rng)

    def _render(self) -> View:
        config, rng = self.config, self.rng
        if self.photographed and rng.uniform() < config.photographed:
            T = self.photographed[int(rng.integers(len(self.photographed)))]
            T = nearby(T, self.center, rng, config.photographed_angle, config.viewpoints)
        else:
            T = random_viewpoint(rng, config.viewpoints, self.center)
        K = self.zoom.draw(T).K
        return render_view(self.renderer, T, K, {"cad": 0}, config.appearance, rng)

    def draw(self) -> tuple[NDArray[Any], ...]:
        """-> image (size, size, 3) uint8 RGB; the six labels of `Labeller.labels`; points (L, 3) float32, see
        `cell_points`."""
        if self._ring.wants_more():
            view = self._render()
            self._ring.add(view)
            self.around.add(self.index, view.layers["cad"])
        view, config, rng = self._ring.draw(), self.config, self.rng
        H, K = self._aim(view)
        rgba = warp(view.layers["cad"], H, self.crop.size)
        if rng.uniform() < config.appearance.repaint:
            rgba = repaint(rgba, rng)
        image = over(rgba, self.around.backgrounds.draw())
        points = cell_points(view.surface, H, self.crop.size, self.cell)
        image = self.around.finish(image, points, self.index, config.appearance, rng)
        label = self.labeller
        camera = K, view.T_view_object
        return image, *label.labels(*camera), points

    def _aim(self, view: View) -> tuple[Array, Array]:
        """Where a window looks: H (3, 3), view pixels -> window pixels, and K (3, 3) of the window in the view's
        frame."""
        R = window_rotation(self.rng, view.K[0, 0], self.config.viewpoints.in_plane, self.config.displacement)
        K = view.K @ R
        return K @ inverse_intrinsics(view.K), K

    def close(self) -> None:
        self.renderer.close()


class PairSamples:
    """T^M: a real image and the CAD rendering of the same pose over the same real image. The real half is T^R."""

    names: tuple[str, ...] = ("x_r", "x_m", "y_r", "d_r", "k_r", "e_r", "m_r", "b_r", "p_r", "p_m")

    def __init__(
        self,
        assets: ObjectAssets,
        config: RealConfig,
        viewpoints: ViewpointConfig,
        around: Surroundings,
        rng: np.random.Generator,
        equivalents: int = 1,
        ring: int = 256,
        cell: int = 16,
    ) -> None:
        self.crop, self.center, self.cell = assets.crop, assets.center, cell
        self.config, self.viewpoints, self.around, self.rng = config, viewpoints, around, rng
        self.index = assets.index
        self.labeller = Labeller(assets, equivalents)
        self.views = [v for v in assets.views if v.visible_fraction > 0.25]
        self.trusted = [v for v in self.views if v.trusted]
        wanted = f"at least one of object number {assets.index} with a known visible mask"
        expect(bool(self.trusted), "real training images", wanted, "none")
        assert assets.patch is not None
        self.patch, self.zoom = assets.patch, Zoom(assets, rng)
        self._ring: Ring[View] = Ring(ring, config.uses_per_view, rng)
        for x in self.trusted:
            around.add(self.index, np.dstack([blend(x.photo, x.visible, np.zeros_like(x.photo)), x.visible]))
        self.renderer: Renderer | None = None
        if config.novel_views > 0:
            self.renderer = Renderer(assets.mesh, self.crop.K, self.crop.size, self.crop.size)
            coloured = photo_colours(assets.colours, assets.mesh.colours)
            self.variants = [(assets.views[i].T_view_object, self.renderer.add_variant(c)) for i, c in coloured]
            wanted = "at least one that shows enough of the object"
            expect(bool(self.variants), "photographs for novel views", wanted, "none")

    def draw(self) -> tuple[NDArray[Any], ...]:
        """-> real image, synthetic image of the same pose, (size, size, 3) uint8 RGB each; the six labels of
        `Labeller.labels`; points (L, 3) float32 of either image, see `cell_points`.

        The synthetic image is clean: the whole object drawn over the real image (section 3.1), over what occludes it
        there too, and without the occluders and the jitter that `appearance` adds to the real one. g learns to see
        through them."""
        kind, config, label = self.rng.uniform(), self.config, self.labeller
        if kind < config.novel_views:
            view, H, K, photo, cad, background = self._novel()
            images = over(photo, background), over(cad, background)
        else:
            view, H, K, images = self._photographed(kind < config.novel_views + config.plain)
        whole_points = cell_points(view.surface, H, self.crop.size, self.cell)
        points = cell_points(view.surface, H, self.crop.size, self.cell, view.hidden)
        real_image = self.around.finish(images[0], points, self.index, config.appearance, self.rng)
        camera = K, view.T_view_object
        return real_image, images[1], *label.labels(*camera), points, whole_points

    def _novel(self) -> tuple[View, Array, Array, Image, Image, Image]:
        """A view that nobody photographed, H (view pixels -> window pixels), K of the window, both layers there, and
        a background."""
        view = self._novel_view()
        H, K = self._warp(view, view.K, self.viewpoints.in_plane, 0.0)
        photo, cad = (warp(view.layers[k], H, self.crop.size) for k in ("photo", "cad"))
        return view, H, K, photo, cad, self.around.backgrounds.draw()

    def _photographed(self, plain: bool) -> tuple[View, Array, Array, tuple[Image, Image]]:
        """A photographed view, H, K, and the real and the synthetic image. plain: with its own background and
        occluders."""
        rng, size, views = self.rng, self.crop.size, self.views if plain else self.trusted
        real = views[int(rng.integers(len(views)))]
        view = View({"photo": real.photo}, real.surface, real.T_view_object, self.patch.K, real.hidden)
        H, K = self._warp(view, self.zoom.draw(real.T_view_object).K, self.config.in_plane, self.config.rescale)
        photo = warp(real.photo, H, size, border=cv2.BORDER_REPLICATE)
        lit = rng.uniform() < self.config.paired_light
        cad = warp(real.lit_cads[int(rng.integers(len(real.lit_cads)))] if lit else real.cad, H, size)
        if plain:
            return view, H, K, (photo, over(cad, photo))
        mask, background = warp(real.visible, H, size), self.around.backgrounds.draw()
        return view, H, K, (blend(photo, mask, background), over(cad, background))

    def _warp(self, view: View, K_window: Array, in_plane: float, rescale: float) -> tuple[Array, Array]:
        R = window_rotation(self.rng, K_window[0, 0], in_plane, self.config.displacement)
        s = 1.0 + self.rng.uniform(-rescale, rescale)
        K = K_window @ R @ np.diag([s, s, 1.0])  # rescaled about the object's centre, then turned
        return K @ inverse_intrinsics(view.K), K

    def _novel_view(self) -> View:
        rng, config = self.rng, self.config
        if self._ring.wants_more():
            assert self.renderer is not None
            T_photo, variant = self.variants[int(rng.integers(len(self.variants)))]
            if rng.uniform() < config.novel_anywhere:
                T = random_viewpoint(rng, self.viewpoints, self.center)
            else:
                T = nearby(T_photo, self.center, rng, config.novel_angle, self.viewpoints)
            light = AppearanceConfig(light=config.paired_light)
            view = render_view(self.renderer, T, self.zoom.draw(T).K, {"cad": 0}, light, rng)
            view.layers["photo"], _ = self.renderer.render(T, variant)
            self._ring.add(view)
        return self._ring.draw()

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()


class Mixed:
    """Samples of several objects, one after the other: a batch has about as many of each."""

    def __init__(self, parts: Sequence[SyntheticSamples] | Sequence[PairSamples]) -> None:
        self.parts, self.names = parts, parts[0].names
        self._next = 0

    def draw(self) -> tuple[NDArray[Any], ...]:
        """See the parts."""
        part = self.parts[self._next]
        self._next = (self._next + 1) % len(self.parts)
        return part.draw()

    def close(self) -> None:
        for part in self.parts:
            part.close()


def nearby(
    T_view_object: Array, center: Array, rng: np.random.Generator, largest_angle: float, viewpoints: ViewpointConfig
) -> Array:
    """A pose turned by up to `largest_angle` degrees from `T_view_object` (4, 4), with `center` (3,) straight ahead, at
    a new distance. An object that stands tilted in the photograph is tilted here, too."""
    R = T_view_object[:3, :3] @ random_rotation(rng, largest_angle)
    return transform(R, np.array([0.0, 0.0, rng.uniform(*viewpoints.distance)]) - R @ center)


def render_view(
    renderer: Renderer,
    T: Array,
    K: Array,
    variants: dict[str, int],
    appearance: AppearanceConfig,
    rng: np.random.Generator,
) -> View:
    """Render the named colour variants at one pose; with probability `appearance.light` under random lights. K (3, 3):
    of the camera, which stays the renderer's."""
    renderer.look_through(K)
    layers, depth = {}, np.zeros(0, np.float32)
    for name, variant in variants.items():
        layers[name], depth = renderer.render(T, variant)
    if rng.uniform() < appearance.light:
        normals = renderer.render_normals(T)
        layers = {name: shade(layer, normals, rng) for name, layer in layers.items()}
    return View(layers, surface_points(depth, T, K), T, K)


def cell_points(
    surface: NDArray[np.float16], H: Array, size: int, cell: int, hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The object's point behind the centre of each cell of `cell`×`cell` pixels of the window, row by row: (L, 3)
    object frame, metres, NaN where the object is not seen, or `hidden` (pixels of the view) by another. H (3, 3): view
    pixels -> window pixels."""
    uvw = _cell_centres(size, cell) @ np.linalg.inv(H).T
    u, v = np.rint(uvw[:, :2] / uvw[:, 2:]).astype(int).T
    height, width = surface.shape[:2]
    inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    points = np.full((len(uvw), 3), np.nan, np.float32)
    points[inside] = surface[v[inside], u[inside]]
    if hidden is not None:
        points[inside] = np.where(hidden[v[inside], u[inside], None], np.float32(np.nan), points[inside])
    return points


@cache
def _cell_centres(size: int, cell: int) -> Array:
    """(L, 3): homogeneous pixels."""
    u, v = np.meshgrid(*2 * [np.arange(cell / 2, size, cell) - 0.5])
    return np.stack([u.ravel(), v.ravel(), np.ones(u.size)], -1)


def warp(image: Image, H: Array, size: int, border: int = cv2.BORDER_CONSTANT) -> Image:
    """Resample by the homography H (3, 3), source pixels -> window pixels, into (size, size[, C])."""
    return cv2.warpPerspective(image, H, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)


@dataclass(frozen=True)
class ObjectSource:
    """Everything that a worker needs to make samples; plain arrays, so that it travels to the worker.

    objects: in the order of the network's outputs. photos: images (H, W, 3) uint8 that backgrounds are cut from, beside
    procedural ones. cell: side of the network's cells, pixels.
    """

    objects: tuple[ObjectAssets, ...]
    synthetic: SyntheticConfig
    real: RealConfig
    photos: list[NDArray[np.uint8]] = field(default_factory=list)
    procedural_share: float = 0.5
    cell: int = 16
    SYNTHETIC: ClassVar[type[SyntheticSamples]] = SyntheticSamples
    PAIRS: ClassVar[type[PairSamples]] = PairSamples

    def open(self, synthetic: bool, pairs: bool, rng: np.random.Generator) -> tuple[Mixed | None, Mixed | None]:
        """T^S and T^M, whichever is asked for."""
        around = Surroundings(Backgrounds(self.photos, self.objects[0].crop.size, rng, self.procedural_share))
        equivalents = 1 + max(len(x.symmetries) for x in self.objects)
        rest: dict[str, Any] = {"equivalents": equivalents, "cell": self.cell}
        T_S, T_M = None, None
        if synthetic:
            T_S = Mixed([self.SYNTHETIC(x, self.synthetic, around, rng, **rest) for x in self.objects])
        if pairs:
            viewpoints = self.synthetic.viewpoints
            T_M = Mixed([self.PAIRS(x, self.real, viewpoints, around, rng, **rest) for x in self.objects])
        return T_S, T_M
