"""Training samples, endless and never the same twice: T^S, and T^M, whose real halves are T^R (section 3.1 and 4.1).

A view is rendered (or prepared from a photograph) once and serves several samples through exact warps: a rotation of
the camera about its own centre is a homography of the image, so the label is exact as well.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, inverse_intrinsics, project
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.photographs import RealView, photo_colours, surface_points
from fm_pose_core.objects.viewpoints import ViewpointConfig, look_at, random_rotation, random_viewpoint, window_rotation
from fm_pose_core.rendering.appearance import AppearanceConfig, jitter, occluder, repaint, shade
from fm_pose_core.rendering.backgrounds import Backgrounds
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.renderer import Renderer

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class SyntheticConfig:
    """T^S (section 4.1)."""

    viewpoints: ViewpointConfig = field(default_factory=ViewpointConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
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
    point seen in each pixel, object frame, metres, NaN where there is none; T_view_object (4, 4); K (3, 3)."""

    layers: dict[str, Image]
    surface: NDArray[np.float16]
    T_view_object: Array
    K: Array


class SyntheticSamples:
    """T^S: renderings over random backgrounds, with their corners."""

    names: tuple[str, ...] = ("x_s", "y_s", "p_s")

    def __init__(
        self,
        mesh: Mesh,
        corners: Array,
        crop: Crop,
        config: SyntheticConfig,
        backgrounds: Backgrounds,
        rng: np.random.Generator,
        ring: int = 256,
    ) -> None:
        self.crop, self.config, self.backgrounds, self.rng = crop, config, backgrounds, rng
        self.corners = corners
        self.center = self.corners.mean(0)
        self.renderer = Renderer(mesh, crop.K, crop.size, crop.size)
        self._ring: list[View] = []
        self._ring_size, self._until_next = ring, 0

    def _render(self) -> View:
        T = random_viewpoint(self.rng, self.config.viewpoints, self.center)
        return render_view(self.renderer, T, self.crop.K, {"cad": 0}, self.config.appearance, self.rng)

    def draw(self) -> tuple[Image, NDArray[np.float32], NDArray[np.float32]]:
        """-> image (size, size, 3) uint8 RGB; corners (8, 2) float32 in window pixels; points (L, 3) float32, see
        `cell_points`."""
        if self._until_next <= 0 or len(self._ring) < 16:
            _renew(self._ring, self._ring_size, self._render(), self.rng)
            self._until_next = self.config.uses_per_view
        self._until_next -= 1
        view = self._ring[int(self.rng.integers(len(self._ring)))]
        config, rng = self.config, self.rng
        R = window_rotation(rng, self.crop.focal, config.viewpoints.in_plane, config.displacement)
        H = self.crop.K @ R @ inverse_intrinsics(view.K)
        rgba = warp(view.layers["cad"], H, self.crop.size)
        if rng.uniform() < config.appearance.repaint:
            rgba = repaint(rgba, rng)
        image = over(rgba, self.backgrounds.draw())
        points = cell_points(view.surface, H, self.crop.size)
        image = finish(image, points, config.appearance, self.backgrounds, rng)
        return image, project(H @ view.K, apply(view.T_view_object, self.corners)).astype(np.float32), points

    def close(self) -> None:
        self.renderer.close()


class PairSamples:
    """T^M: a real image and the CAD rendering of the same pose over the same real image. The real half is T^R."""

    names: tuple[str, ...] = ("x_r", "x_m", "y_r", "p_r", "p_m")

    def __init__(
        self,
        mesh: Mesh,
        corners: Array,
        crop: Crop,
        config: RealConfig,
        viewpoints: ViewpointConfig,
        views: list[RealView],
        colours: NDArray[np.float32],
        backgrounds: Backgrounds,
        rng: np.random.Generator,
        ring: int = 256,
    ) -> None:
        self.crop, self.config, self.viewpoints, self.backgrounds, self.rng = crop, config, viewpoints, backgrounds, rng
        self.corners = corners
        self.center = self.corners.mean(0)
        self.views = [v for v in views if v.visible_fraction > 0.25]
        self.trusted = [v for v in self.views if v.trusted]
        expect(bool(self.trusted), "real training images", "at least one with a known visible mask", "none")
        self.patch = Crop(views[0].photo.shape[0], crop.focal)
        self._ring: list[View] = []
        self._ring_size, self._until_next = ring, 0
        self.renderer: Renderer | None = None
        if config.novel_views > 0:
            self.renderer = Renderer(mesh, crop.K, crop.size, crop.size)
            self.variants = [
                (views[i].T_view_object, self.renderer.add_variant(c)) for i, c in photo_colours(colours, mesh.colours)
            ]
            expect(
                bool(self.variants),
                "photographs for novel views",
                "at least one that shows enough of the object",
                "none",
            )

    def draw(self) -> tuple[Image, Image, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """-> real image, synthetic image of the same pose, (size, size, 3) uint8 RGB each; corners (8, 2) float32,
        window pixels; points (L, 3) float32 of either image, see `cell_points`.

        The synthetic image is clean: the whole object drawn over the real image (section 3.1), over what occludes it
        there too, and without the occluders and the jitter that `appearance` adds to the real one. g learns to see
        through them."""
        rng, config = self.rng, self.config
        kind = rng.uniform()
        if kind < config.novel_views:
            view = self._novel_view()
            whole = view.surface
            H, corners = self._warp(view, self.viewpoints.in_plane, 0.0)
            photo, cad = (warp(view.layers[k], H, self.crop.size) for k in ("photo", "cad"))
            background = self.backgrounds.draw()
            images = [over(photo, background), over(cad, background)]
        else:
            plain = kind < config.novel_views + config.plain
            real = (self.views if plain else self.trusted)[
                int(rng.integers(len(self.views if plain else self.trusted)))
            ]
            view, whole = (
                View({"photo": real.photo}, real.surface, real.T_view_object, self.patch.K),
                real.whole_surface,
            )
            H, corners = self._warp(view, config.in_plane, config.rescale)
            photo = warp(real.photo, H, self.crop.size, border=cv2.BORDER_REPLICATE)
            lit = rng.uniform() < config.paired_light
            cad = warp(real.lit_cads[int(rng.integers(len(real.lit_cads)))] if lit else real.cad, H, self.crop.size)
            if plain:
                images = [photo, over(cad, photo)]
            else:
                mask = warp(real.visible, H, self.crop.size)
                background = self.backgrounds.draw()
                images = [blend(photo, mask, background), over(cad, background)]
        points, whole_points = (cell_points(surface, H, self.crop.size) for surface in (view.surface, whole))
        real_image = finish(images[0], points, config.appearance, self.backgrounds, rng)
        return real_image, images[1], corners, points, whole_points

    def _warp(self, view: View, in_plane: float, rescale: float) -> tuple[Array, NDArray[np.float32]]:
        R = window_rotation(self.rng, self.crop.focal, in_plane, self.config.displacement)
        s = 1.0 + self.rng.uniform(-rescale, rescale)
        K = self.crop.K @ R @ np.diag([s, s, 1.0])  # rescaled about the object's centre, then turned
        return K @ inverse_intrinsics(view.K), project(K, apply(view.T_view_object, self.corners)).astype(np.float32)

    def _novel_view(self) -> View:
        rng = self.rng
        if self._until_next <= 0 or len(self._ring) < 16:
            assert self.renderer is not None
            T_photo, variant = self.variants[int(rng.integers(len(self.variants)))]
            if rng.uniform() < self.config.novel_anywhere:
                T = random_viewpoint(rng, self.viewpoints, self.center)
            else:
                T = nearby(T_photo, self.center, rng, self.config.novel_angle, self.viewpoints)
            view = render_view(
                self.renderer, T, self.crop.K, {"cad": 0}, AppearanceConfig(light=self.config.paired_light), rng
            )
            view.layers["photo"], _ = self.renderer.render(T, variant)
            _renew(self._ring, self._ring_size, view, rng)
            self._until_next = self.config.uses_per_view
        self._until_next -= 1
        return self._ring[int(rng.integers(len(self._ring)))]

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()


def _renew(ring: list[View], size: int, view: View, rng: np.random.Generator) -> None:
    if len(ring) < size:
        ring.append(view)
    else:
        ring[int(rng.integers(size))] = view


def nearby(
    T_view_object: Array, center: Array, rng: np.random.Generator, largest_angle: float, viewpoints: ViewpointConfig
) -> Array:
    """A pose whose viewpoint is up to `largest_angle` degrees from that of `T_view_object`, upright, looking at
    `center`, at a new distance."""
    R = T_view_object[:3, :3] @ random_rotation(rng, largest_angle)
    return look_at(-R[2], rng.uniform(*viewpoints.distance), center)


def render_view(
    renderer: Renderer,
    T: Array,
    K: Array,
    variants: dict[str, int],
    appearance: AppearanceConfig,
    rng: np.random.Generator,
) -> View:
    """Render the named colour variants at one pose; with probability `appearance.light` under random lights."""
    layers, depth = {}, np.zeros(0, np.float32)
    for name, variant in variants.items():
        layers[name], depth = renderer.render(T, variant)
    if rng.uniform() < appearance.light:
        normals = renderer.render_normals(T)
        layers = {name: shade(layer, normals, rng) for name, layer in layers.items()}
    return View(layers, surface_points(depth, T, K), T, K)


def cell_points(surface: NDArray[np.float16], H: Array, size: int) -> NDArray[np.float32]:
    """The object's point behind the centre of each cell of 16×16 pixels of the window, row by row: (L, 3) object frame,
    metres, NaN where the object is not seen. H (3, 3): view pixels -> window pixels."""
    centres = np.arange(8, size, 16) - 0.5
    u, v = np.meshgrid(centres, centres)
    source = np.rint(project(np.linalg.inv(H), np.stack([u.ravel(), v.ravel(), np.ones(u.size)], -1))).astype(int)
    height, width = surface.shape[:2]
    inside = (source >= 0).all(1) & (source[:, 0] < width) & (source[:, 1] < height)
    points = np.full((len(source), 3), np.nan, np.float32)
    points[inside] = surface[source[inside, 1], source[inside, 0]]
    return points


def warp(image: Image, H: Array, size: int, border: int = cv2.BORDER_CONSTANT) -> Image:
    """Resample by the homography H (3, 3), source pixels -> window pixels, into (size, size[, C])."""
    return cv2.warpPerspective(image, H, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)


def over(rgba: Image, background: Image) -> Image:
    """Premultiplied (H, W, 4) over (H, W, 3)."""
    keep = cv2.cvtColor(255 - rgba[..., 3], cv2.COLOR_GRAY2RGB)
    return cv2.add(cv2.multiply(background, keep, scale=1.0 / 255.0), np.ascontiguousarray(rgba[..., :3]))


def blend(image: Image, mask: Image, background: Image) -> Image:
    """image where the mask (H, W) uint8 is 255, background where it is 0."""
    m = cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)
    return cv2.add(cv2.multiply(image, m, scale=1.0 / 255.0), cv2.multiply(background, 255 - m, scale=1.0 / 255.0))


def finish(
    image: Image,
    points: NDArray[np.float32],
    config: AppearanceConfig,
    backgrounds: Backgrounds,
    rng: np.random.Generator,
) -> Image:
    """Occluders and jitter. Points that an occluder hides become NaN."""
    for _ in range(2):
        if rng.uniform() < config.occluders:
            texture, alpha = occluder(rng, backgrounds, image.shape[0])
            mask = (alpha[..., 0] * 255.0).astype(np.uint8)
            image = blend(texture, mask, image)
            points[mask[8::16, 8::16].ravel() > 127] = np.nan
    return jitter(image, rng, config)


@dataclass(frozen=True)
class ObjectSource:
    """Everything that a worker needs to make samples; plain arrays, so that it travels to the worker.

    corners: (8, 3) metres. views, colours: from real.prepare_real_views; empty without real images. photos: images
    (H, W, 3) uint8 that backgrounds are cut from, beside procedural ones.
    """

    mesh: Mesh
    corners: Array
    crop: Crop
    synthetic: SyntheticConfig
    real: RealConfig
    views: list[RealView] = field(default_factory=list)
    colours: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))
    photos: list[NDArray[np.uint8]] = field(default_factory=list)
    procedural_share: float = 0.5

    def open(
        self, synthetic: bool, pairs: bool, rng: np.random.Generator
    ) -> tuple[SyntheticSamples | None, PairSamples | None]:
        backgrounds = Backgrounds(self.photos, self.crop.size, rng, self.procedural_share)
        T_S = (
            SyntheticSamples(self.mesh, self.corners, self.crop, self.synthetic, backgrounds, rng)
            if synthetic
            else None
        )
        T_M = None
        if pairs:
            T_M = PairSamples(
                self.mesh,
                self.corners,
                self.crop,
                self.real,
                self.synthetic.viewpoints,
                self.views,
                self.colours,
                backgrounds,
                rng,
            )
        return T_S, T_M
