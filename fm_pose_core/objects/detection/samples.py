"""Training samples for the detector: T^S and T^M of whole images.

Renderings, and objects that are cut out of photographs, are pasted over backgrounds (Dwibedi et al., Cut, Paste and
Learn, ICCV 2017); photographs are shown whole, too, as a camera would take them that is turned and zoomed. Of each real
image there is the same with renderings in place of the photographed objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, inverse_intrinsics
from fm_pose_core.learning.ring import Ring
from fm_pose_core.objects.photographs import RealView
from fm_pose_core.objects.samples import ObjectAssets, RealConfig, SyntheticConfig, View, render_view, warp
from fm_pose_core.objects.surroundings import blend, over
from fm_pose_core.objects.viewpoints import random_viewpoint, window_rotation
from fm_pose_core.rendering.appearance import AppearanceConfig, jitter, occluder_shape, repaint
from fm_pose_core.rendering.backgrounds import Backgrounds
from fm_pose_core.rendering.renderer import Renderer

Image = NDArray[np.uint8]
Owner = NDArray[np.int8]
MOST = 24  # objects in an image
VISIBLE = 0.1  # an object of which less is left to see need not be found
NOBODY = -1
KEPT, USES = 64, 24  # rendered views of each object, and samples that each serves
TURN, SHIFT, ZOOM = 20.0, 0.15, np.log(1.35)  # of photographs: degrees, of the image's side, and logarithm
SIZES = np.log(1.3)  # logarithm: how pasted objects' sizes vary
HALVED = 0.6  # below this scale a picture is halved before it is resampled, which would skip pixels
BESIDE = (0.3, 1.2)  # of an object's width: how far from its middle another one is pasted that hides it
AROUND = 1.5  # roots of an object's area: side of the square that an occluder of it is drawn in
BARS = (0.0, 0.25, 0.4375)  # of the square that the images of cameras leave empty: 1:1, 4:3, 16:9


@dataclass(frozen=True)
class DetectorConfig:
    size: int = knob(320, "Side of the detector's image, into which the camera's is fitted; pixels.", 64, 1024)
    extractor: str = knob("fine", "f, as network.extractor.", choices=("compact", "fine", "efficientnet_lite0"))
    width: int = knob(12, "Channels w: as network.width.", 8, 256)
    features: int = knob(64, "Feature size D.", 16, 4096)
    depth: bool = knob(
        False, "Whether it also answers how far away an object is: a network that looks twice then looks once."
    )
    weights: str = knob("", "Where the weights begin, as network.weights; empty: random ones.")
    field_of_view: tuple[float, float] = knob(
        (45.0, 75.0), "Of the rendered images' longer side, from and to, degrees.", 5.0, 150.0
    )
    objects: int = knob(8, "Most objects that are pasted into an image.", 1, 20)
    plain: float = knob(0.6, "Share of real images that are whole photographs.", 0.0, 1.0)
    pretrain_images: int = knob(4_000, "Images of its pretraining.", 0)
    images: int = knob(20_000, "Images of its training proper.", 1)
    learning_rate: float = knob(0.0, "As schedule.learning_rate, for its training; 0: the same.", 0.0, 1.0)
    batch: int = knob(4, "Of each kind (synthetic, pairs, real) in a batch.", 1, 1000)


@dataclass(frozen=True)
class Scene:
    """A photograph of several objects by a virtual camera K (3, 3). photo, rendered: (P, P, 3) uint8, without and with
    the models drawn over it. owner: (P, P), which of the objects a pixel shows, or NOBODY. objects (M,): which these
    are. centres (M, 2): of their boxes, pixels; depths (M,): of these, along the optical axis, in diagonals of the
    box."""

    photo: Image
    rendered: Image
    owner: Owner
    objects: NDArray[np.int64]
    centres: Array
    depths: Array
    K: Array


Place = tuple[float, float, float]  # of the centre of an object's box: pixels u, v, and the logarithm of its depth


class Seen(NamedTuple):
    """How a view shows an object: by which focal length, pixels, and how deep, in diagonals of the object's box."""

    focal: float
    depth: float


class Canvas:
    """What an image, and perhaps its rendered twin, are pasted together on; and what can still be seen of what."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.images, self.size = list(images), len(images[0])
        self.owner = np.full(images[0].shape[:2], NOBODY, np.int8)
        self.objects: list[tuple[int, Place]] = []
        self.areas: list[int] = []

    def take(self, scene: Scene, H: Array, focal: float) -> None:
        """The objects of a photograph that the images show. H (3, 3): its pixels -> those of a camera with this focal
        length, at the same place."""
        flags = cv2.INTER_NEAREST
        size, away = (self.size, self.size), (NOBODY,)
        self.owner = cv2.warpPerspective(
            scene.owner, H, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=away
        )
        whole = np.bincount(scene.owner[scene.owner >= 0], minlength=len(scene.objects))
        determinant = abs(np.linalg.det(H))
        uvw = np.column_stack([scene.centres, np.ones(len(scene.centres))]) @ H.T
        for k, (u, v, w), depth, area in zip(scene.objects, uvw, scene.depths, whole, strict=True):
            self.objects.append((int(k), (u / w, v / w, float(np.log(depth * w * self.size / focal)))))
            self.areas.append(int(area * determinant / abs(w) ** 3))  # H changes areas by so much here

    def paste(self, layers: Sequence[Image], index: int, place: Place) -> None:
        """An object over each of the images: (S, S, 4), premultiplied."""
        self.images = [over(layer, image) for layer, image in zip(layers, self.images, strict=True)]
        mask = layers[0][..., 3] > 127
        self.owner[mask] = len(self.objects)
        self.objects.append((index, place))
        self.areas.append(int(mask.sum()))

    def cover(self, texture: Image, mask: Image) -> None:
        """With what is no object: texture (S, S, 3), where mask (S, S) uint8 says."""
        self.images = [blend(texture, mask, image) for image in self.images]
        self.owner[mask > 127] = NOBODY

    def labels(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Places (MOST, 3) of the objects that can be seen, NaN beyond, and which they are (MOST,)."""
        left = np.bincount(self.owner[self.owner >= 0], minlength=len(self.objects))
        places, objects, count = np.full((MOST, 3), np.nan, np.float32), np.zeros(MOST, np.int64), 0
        for (k, place), area, seen in zip(self.objects, self.areas, left, strict=True):
            inside = all(-0.5 < x < self.size - 0.5 for x in place[:2])
            if inside and seen > max(VISIBLE * area, 4) and count < MOST:
                places[count], objects[count] = place, k
                count += 1
        return places, objects


class Pasting:
    """What T^S and T^M of whole images share."""

    def __init__(
        self, config: DetectorConfig, appearance: AppearanceConfig, backgrounds: Backgrounds, rng: np.random.Generator
    ) -> None:
        self.config, self.backgrounds, self.rng = config, backgrounds, rng
        # A whole image is reduced: coarser than the camera's, where a window on an object is finer.
        self.appearance = replace(appearance, coarse=1.0, motion=0.5 * appearance.motion)
        self._hidden = appearance.occluders * appearance.large  # share of objects that lose a side

    def focal(self) -> float:
        """Of a random camera, pixels of the image."""
        angle = np.radians(self.rng.uniform(*self.config.field_of_view))
        return float(self.config.size / 2 / np.tan(angle / 2))

    def where(self, canvas: Canvas) -> Array:
        """(2,) pixels, for an object's centre: anywhere; or so that the object hides another one."""
        if not canvas.objects or self.rng.uniform() >= self._hidden:
            return self.rng.uniform(0.03, 0.97, 2) * (canvas.size - 1)
        other, angle = int(self.rng.integers(len(canvas.objects))), self.rng.uniform(0.0, 2.0 * np.pi)
        away = self.rng.uniform(*BESIDE) * np.sqrt(canvas.areas[other])
        return np.array(canvas.objects[other][1][:2]) + away * np.array([np.cos(angle), np.sin(angle)])

    def place(
        self, layers: Sequence[Image], view: Seen, focal: float, in_plane: float, where: Array
    ) -> tuple[list[Image], Place]:
        """Views of one object whose centre is in their middle, with it at `where` (2,) in an image of a camera with
        this focal length: turned, and as large as there, within SIZES."""
        rng, size, (u, v) = self.rng, self.config.size, (float(x) for x in where)
        middle, angle = (len(layers[0]) - 1) / 2, rng.uniform(-in_plane, in_plane)
        scale = focal / view.focal * float(np.exp(rng.uniform(-SIZES, SIZES)))
        # Aside of the axis a camera stretches what it sees by 1 / √cos on the mean; a view that is pasted there is not.
        stretch = 0.25 * np.log(1 + ((u - (size - 1) / 2) ** 2 + (v - (size - 1) / 2) ** 2) / focal**2)
        place = u, v, float(np.log(size / (scale * view.focal / view.depth)) + stretch)
        while scale < HALVED:  # pixel (u, v) of the half is (2 u, 2 v) of the whole
            layers, middle, scale = [cv2.pyrDown(layer) for layer in layers], middle / 2, 2 * scale
        M = cv2.getRotationMatrix2D((middle, middle), angle, scale)
        M[:, 2] += (u - middle, v - middle)
        return [cv2.warpAffine(layer, M, (size, size), flags=cv2.INTER_LINEAR) for layer in layers], place

    def finish(self, canvas: Canvas, bars: bool) -> Image:
        """The first image with jitter; and all of them with occluders, since what is hidden is not to be found, and
        with what the image of a camera leaves empty."""
        rng = self.rng
        for _ in range(2):
            if rng.uniform() < self.appearance.occluders:
                canvas.cover(self.backgrounds.draw(), occluder_shape(rng, canvas.size))
        for (_, (u, v, _)), area in zip(canvas.objects, canvas.areas, strict=True):
            if rng.uniform() < self._hidden:
                shape = occluder_shape(rng, int(AROUND * np.sqrt(area)) + 4, large=True)
                middle = (len(shape) - 1) / 2
                M = np.array([[1.0, 0.0, u - middle], [0.0, 1.0, v - middle]])
                canvas.cover(self.backgrounds.draw(), cv2.warpAffine(shape, M, (canvas.size, canvas.size)))
        image = jitter(canvas.images[0], rng, self.appearance)
        if bars:
            rows = int(BARS[int(rng.integers(len(BARS)))] * self.config.size / 2)
            for layer, nothing in ((image, 0), *((x, 0) for x in canvas.images[1:]), (canvas.owner, NOBODY)):
                layer[:rows], layer[len(layer) - rows :] = nothing, nothing
        return image


class RenderedScenes:
    """T^S of whole images."""

    names: tuple[str, ...] = ("x_s", "y_s", "k_s")

    def __init__(self, objects: Sequence[ObjectAssets], config: SyntheticConfig, pasting: Pasting) -> None:
        self.objects, self.config, self.pasting, self.rng = objects, config, pasting, pasting.rng
        self.rings: list[Ring[View]] = [Ring(KEPT, USES, self.rng) for _ in objects]
        self.renderers = [Renderer(x.mesh, x.crop.K, x.crop.size, x.crop.size) for x in objects]

    def _view(self, k: int) -> View:
        if self.rings[k].wants_more():
            assets, config = self.objects[k], self.config
            T = random_viewpoint(self.rng, config.viewpoints, assets.center)
            view = render_view(self.renderers[k], T, assets.crop.K, {"cad": 0}, config.appearance, self.rng)
            self.rings[k].add(view)
        return self.rings[k].draw()

    def draw(self) -> tuple[NDArray[Any], ...]:
        """-> image (size, size, 3) uint8 RGB; places (MOST, 3) float32 and objects (MOST,), see Canvas.labels."""
        rng, pasting = self.rng, self.pasting
        canvas, focal = Canvas([pasting.backgrounds.draw()]), pasting.focal()
        chosen = rng.integers(len(self.objects), size=int(rng.integers(1, pasting.config.objects + 1)))
        views = [(int(k), self._view(int(k))) for k in chosen]
        for k, view in sorted(views, key=lambda x: -x[1].T_view_object[2, 3]):  # the far ones first
            rgba = view.layers["cad"]
            rgba = repaint(rgba, rng) if rng.uniform() < self.config.appearance.repaint else rgba
            seen = _seen(self.objects[k], view.K[0, 0], view.T_view_object)
            in_plane = self.config.viewpoints.in_plane
            layers, place = pasting.place([rgba], seen, focal, in_plane, pasting.where(canvas))
            canvas.paste(layers, k, place)
        image = pasting.finish(canvas, bars=True)
        return image, *canvas.labels()

    def close(self) -> None:
        for renderer in self.renderers:
            renderer.close()


class PairedScenes:
    """T^M of whole images; the real halves are T^R."""

    names: tuple[str, ...] = ("x_r", "x_m", "y_r", "k_r")

    def __init__(
        self, objects: Sequence[ObjectAssets], scenes: Sequence[Scene], config: RealConfig, pasting: Pasting
    ) -> None:
        self.objects, self.scenes, self.config = objects, scenes, config
        self.pasting, self.rng = pasting, pasting.rng
        self.cutouts = [[v for v in x.views if v.trusted] for x in objects]
        for k, views in enumerate(self.cutouts):
            expect(bool(views), "real training images", f"at least one of object number {k} with a known mask", "none")

    def draw(self) -> tuple[NDArray[Any], ...]:
        """-> real image, the same with renderings of its objects, (size, size, 3) uint8 RGB each; places and objects,
        see Canvas.labels."""
        rng, pasting, most = self.rng, self.pasting, self.pasting.config.objects
        plain = rng.uniform() < pasting.config.plain
        if plain:
            canvas, focal = self._photographed()
            count = int(rng.integers(0, most // 2 + 1))
        else:
            background, focal = pasting.backgrounds.draw(), pasting.focal()
            canvas, count = Canvas([background, background]), int(rng.integers(1, most + 1))
        for k in rng.integers(len(self.objects), size=count):
            self._cut_and_paste(canvas, int(k), focal)
        real = pasting.finish(canvas, bars=not plain)
        return real, canvas.images[1], *canvas.labels()

    def _photographed(self) -> tuple[Canvas, float]:
        """A photograph, turned and zoomed, and the focal length that it has then."""
        rng, size = self.rng, self.pasting.config.size
        scene = self.scenes[int(rng.integers(len(self.scenes)))]
        focal = scene.K[0, 0] * size / len(scene.photo) * float(np.exp(rng.uniform(-ZOOM, ZOOM)))
        K = np.array([[focal, 0.0, (size - 1) / 2], [0.0, focal, (size - 1) / 2], [0.0, 0.0, 1.0]])
        H = K @ window_rotation(rng, focal, TURN, SHIFT * size) @ inverse_intrinsics(scene.K)
        canvas = Canvas([warp(x, H, size) for x in (scene.photo, scene.rendered)])
        canvas.take(scene, H, focal)
        return canvas, focal

    def _cut_and_paste(self, canvas: Canvas, k: int, focal: float) -> None:
        assets, views = self.objects[k], self.cutouts[k]
        assert assets.patch is not None
        view: RealView = views[int(self.rng.integers(len(views)))]
        photo = np.dstack([blend(view.photo, view.visible, np.zeros_like(view.photo)), view.visible])
        seen = _seen(assets, assets.patch.focal, view.T_view_object)
        where = self.pasting.where(canvas)
        layers, place = self.pasting.place([photo, view.cad], seen, focal, self.config.in_plane, where)
        canvas.paste(layers, k, place)

    def close(self) -> None:
        """Nothing is held."""


def _seen(assets: ObjectAssets, focal: float, T_view_object: Array) -> Seen:
    return Seen(focal, float(apply(T_view_object, assets.center[None])[0, 2]) / assets.diagonal)


@dataclass(frozen=True)
class SceneSource:
    """Everything that a worker needs to make samples. objects: in the order of the network's outputs. photos: that
    backgrounds are cut from."""

    objects: tuple[ObjectAssets, ...]
    scenes: list[Scene]
    config: DetectorConfig
    synthetic: SyntheticConfig
    real: RealConfig
    photos: list[Image] = field(default_factory=list)
    procedural_share: float = 0.5

    def open(
        self, synthetic: bool, pairs: bool, rng: np.random.Generator
    ) -> tuple[RenderedScenes | None, PairedScenes | None]:
        """T^S and T^M, whichever is asked for."""
        backgrounds = Backgrounds(self.photos, self.config.size, rng, self.procedural_share)
        T_S, T_M = None, None
        if synthetic:
            pasting = Pasting(self.config, self.synthetic.appearance, backgrounds, rng)
            T_S = RenderedScenes(self.objects, self.synthetic, pasting)
        if pairs:
            pasting = Pasting(self.config, self.real.appearance, backgrounds, rng)
            T_M = PairedScenes(self.objects, self.scenes, self.real, pasting)
        return T_S, T_M
