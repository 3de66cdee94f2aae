"""Photographs of the demo's object by a simulated camera: what stands in for real images in a demonstration without a camera.

They differ from the training renderings (`data/renderer`, unlit) as photographs do: a lamp with soft shadows, a fill light,
light from the room, glossy and slightly repainted surfaces; a textured table with clutter that may hide a part of the object;
a lens with defocus, lateral colour and vignetting; a sensor with its own colours, shot and read noise and a tone curve; JPEG.
Poses are exact.

    fm-pose simulate OUTPUT_DIR        # writes a BOP dataset with the splits train_real and test

The world frame is the object's frame: the object stands on the table z = 0. Metres, linear light in [0, 1].
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.data.backgrounds import procedural_image
from fm_pose_core.data.bop import MM, write_atomically
from fm_pose_core.data.renderer import Mesh, Renderer
from fm_pose_core.data.viewpoints import look_at
from fm_pose_core.demo_object import Paint, box, checker, demo_object, lathe, merged, moved, plain, ring, stripes
from fm_pose_core.geometry import Array, apply, exp_so3, inverse, transform
from fm_pose_core.types import Camera

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

CAMERA = Camera(np.array([[571.2, 0.0, 322.6], [0.0, 571.9, 238.1], [0.0, 0.0, 1.0]]), 640, 480)
OBJECT_ID = 1
CENTER = np.array([0.0, 0.0, 0.04])  # what the camera looks at, about
TABLE = np.array([0.95, 0.75])  # half sides, metres
TEXELS = 1000.0  # of the table's texture per metre
SHADOW_SIZE = 1024  # pixels of the lamp's depth map
SPLITS = ("train_real", "test")


@dataclass(frozen=True)
class Photo:
    """image (H, W, 3) uint8 RGB; T_camera_object (4, 4); silhouette and visible (H, W) in [0, 1]: the share of each pixel that the
    object covers, without and with what stands before it."""

    image: Image
    T_camera_object: Array
    silhouette: Floats
    visible: Floats

    @property
    def visible_fraction(self) -> float:
        """Share of the silhouette that is visible (BOP's visib_fract)."""
        return float((self.visible > 0.5).sum() / max(1, int((self.silhouette > 0.5).sum())))


class Studio:
    """One set-up: the object on a table with clutter, lights, and how the camera is set. Same seed, same set-up.

    supersampling: the scene is drawn with so many times the pixels in both directions.
    """

    def __init__(self, mesh: Mesh, seed: int, camera: Camera = CAMERA, supersampling: int = 2) -> None:
        rng = np.random.default_rng(seed)
        self.camera, self._scale = camera, supersampling
        s = supersampling
        # The centre of the top-left pixel is (0, 0) in both images.
        self._K = np.array([[camera.K[0, 0] * s, 0, camera.K[0, 2] * s + (s - 1) / 2], [0, camera.K[1, 1] * s, camera.K[1, 2] * s + (s - 1) / 2], [0, 0, 1]])
        self._size = (camera.width * s, camera.height * s)
        columns, rows = np.meshgrid(np.arange(self._size[0]), np.arange(self._size[1]))
        self._rays = np.stack([(columns - self._K[0, 2]) / self._K[0, 0], (rows - self._K[1, 2]) / self._K[1, 1], np.ones_like(rows)], -1).astype(np.float32)

        worn = Mesh(mesh.vertices, mesh.normals, repainted(mesh, rng), mesh.faces)
        self.clutter = clutter(rng, float(np.linalg.norm(mesh.vertices[:, :2], axis=1).max()))
        scene = merged([worn, self.clutter])
        self._renderer = Renderer(scene, self._K, *self._size)
        # Red tells the object from the clutter, green how glossy a vertex is.
        gloss = np.concatenate([np.full(len(mesh.vertices), 150), rng.integers(0, 160) * np.ones(len(self.clutter.vertices))])
        marks = np.column_stack([np.arange(len(scene.vertices)) < len(mesh.vertices), gloss / 255.0, np.zeros(len(scene.vertices))])
        self._marks = self._renderer.add_variant((255 * marks).astype(np.uint8))
        self._alone = Renderer(mesh, self._K, *self._size)
        self._table = table_texture(rng)
        self._room = room_texture(rng)
        self._light(rng, scene)
        # The camera's settings.
        self._gains = np.array([rng.uniform(0.88, 1.12), 1.0, rng.uniform(0.85, 1.12)]) * rng.uniform(0.85, 1.12)
        mix = rng.uniform(0.02, 0.10, (3, 3))
        self._colour_matrix = mix + np.diag(1.0 - mix.sum(1))  # rows add to one: grey stays grey
        self._focus = rng.uniform(0.7, 1.0)  # distance of sharpness, metres
        self._noise = (rng.uniform(0.0003, 0.0009), rng.uniform(0.002, 0.005))  # shot: variance per light; read: standard deviation
        self._gamma = rng.uniform(0.44, 0.52)

    def _light(self, rng: np.random.Generator, scene: Mesh) -> None:
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(30, 58))
        direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        self._lamp = 1.6 * direction
        warmth = rng.uniform(-0.12, 0.12)
        self._lamp_colour = rng.uniform(0.85, 1.35) * np.array([1 + warmth, 1.0, 1 - warmth])
        turn = azimuth + rng.uniform(1.8, 4.4)
        fill = np.array([np.cos(turn), np.sin(turn), rng.uniform(0.4, 1.2)])
        self._fill, self._fill_colour = fill / np.linalg.norm(fill), rng.uniform(0.05, 0.25) * np.array([1 - warmth, 1.0, 1 + warmth])
        self._sky, self._bounce = rng.uniform(0.16, 0.34) * np.array([0.95, 1.0, 1.08]), rng.uniform(0.06, 0.15)
        self._T_lamp_world = look_at(direction, 1.6, np.zeros(3))
        f = 0.5 * SHADOW_SIZE / np.tan(np.radians(24.0))
        self._K_lamp = np.array([[f, 0, SHADOW_SIZE / 2], [0, f, SHADOW_SIZE / 2], [0, 0, 1]])
        renderer = Renderer(scene, self._K_lamp, SHADOW_SIZE, SHADOW_SIZE)
        depth = renderer.render(self._T_lamp_world)[1]
        renderer.close()
        self._lamp_depth = np.where(depth > 0, depth, np.float32(100.0)).astype(np.float32)
        softness = rng.uniform(3.0, 9.0)  # pixels of the depth map
        angle, radius = np.arange(14) * 2.39996, softness * np.sqrt((np.arange(14) + 0.5) / 14)  # Vogel's spiral
        self._taps = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)

    def _unshadowed(self, points: Floats) -> Floats:
        """(N, 3) world points -> (N,) share of the lamp that they see."""
        p = points @ self._T_lamp_world[:3, :3].T.astype(np.float32) + self._T_lamp_world[:3, 3].astype(np.float32)
        uv = (p[:, :2] / p[:, 2:] * np.float32(self._K_lamp[0, 0]) + np.float32(SHADOW_SIZE / 2)).reshape(1, -1, 2) if len(p) else np.zeros((1, 0, 2), np.float32)
        seen = np.zeros(len(p), np.float32)
        width = 30000  # OpenCV's remap takes no wider map
        for begin in range(0, len(p), width):
            part, depth = uv[:, begin : begin + width], p[begin : begin + width, 2] - np.float32(0.004)
            for tap in self._taps:
                nearest = cv2.remap(self._lamp_depth, part + tap, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=100.0)
                seen[begin : begin + width] += nearest[0] > depth
        return seen / np.float32(len(self._taps))

    def _shade(self, albedo: Floats, points: Floats, normals: Floats, to_camera: Floats, gloss: Floats | float) -> Floats:
        """(N, 3) each, world frame, and gloss (N,) -> outgoing linear light (N, 3): lamp, fill light, sky and table bounce."""
        to_lamp = self._lamp.astype(np.float32) - points
        to_lamp /= np.linalg.norm(to_lamp, axis=1, keepdims=True)
        lit = self._unshadowed(points + 0.002 * normals)
        lambert = np.clip((normals * to_lamp).sum(1), 0, None) * lit
        half = to_lamp + to_camera
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
        shine = np.clip((normals * half).sum(1), 0, None) ** 45.0 * lit * gloss
        up = 0.5 + 0.5 * normals[:, 2:]
        light = lambert[:, None] * self._lamp_colour + np.clip(normals @ self._fill, 0, None)[:, None] * self._fill_colour
        light = light + up * self._sky + (1 - up) * self._bounce
        # Near the table little sky is seen from below: a soft contact shadow.
        light *= (0.72 + 0.28 * np.clip(points[:, 2:] / 0.02 + normals[:, 2:], 0, 1)) if np.ndim(gloss) else 1.0
        return (albedo * light + 0.8 * shine[:, None] * self._lamp_colour).astype(np.float32)

    def photograph(self, T_camera_object: Array, rng: np.random.Generator) -> Photo:
        """Take a photo from T_camera_object (4, 4); `rng` gives the noise."""
        colour, depth = self._renderer.render(T_camera_object)
        marks = self._renderer.render(T_camera_object, self._marks)[0]
        normals = self._renderer.render_normals(T_camera_object)
        silhouette = self._alone.render(T_camera_object)[0][..., 3]
        T = inverse(T_camera_object).astype(np.float32)
        eye = T[:3, 3]

        light = self._surroundings(T)
        depth = np.where(depth > 0, depth, cv2.dilate(depth, np.ones((3, 3), np.uint8)))  # the depth buffer is not antialiased
        at = (colour[..., 3] > 0) & (depth > 0)
        alpha = colour[at, 3:].astype(np.float32) / 255.0
        albedo = np.clip(colour[at, :3] / 255.0 / alpha, 0, 1) ** 2.2
        points = (self._rays[at] * depth[at, None]) @ T[:3, :3].T + eye
        to_camera = eye - points
        to_camera /= np.linalg.norm(to_camera, axis=1, keepdims=True)
        n = normals[at] @ T[:3, :3].T
        n = np.where((n * to_camera).sum(1, keepdims=True) < 0, -n, n)  # the back of a thin flag
        gloss = np.clip(marks[at, 1] / 255.0 / alpha[:, 0], 0, 1)
        light[at] = light[at] * (1 - alpha) + alpha * self._shade(albedo.astype(np.float32), points, n, to_camera, gloss)

        distance = float((T_camera_object[:3, :3] @ CENTER + T_camera_object[:3, 3])[2])
        image = self._develop(self._lens(light, distance), rng)
        return Photo(image, T_camera_object, self._reduced(silhouette), self._reduced(marks[..., 0]))

    def _surroundings(self, T_world_camera: Floats) -> Floats:
        """The light (H', W', 3) from the table, and from the room beyond its edges."""
        rays = self._rays @ T_world_camera[:3, :3].T
        eye = T_world_camera[:3, 3]
        distance = np.where(rays[..., 2] < -1e-3, -eye[2] / np.minimum(rays[..., 2], -1e-3), np.inf)
        x, y = eye[0] + distance * rays[..., 0], eye[1] + distance * rays[..., 1]
        on_table = (np.abs(x) < TABLE[0]) & (np.abs(y) < TABLE[1])
        unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        u = (np.arctan2(unit[..., 1], unit[..., 0]) / (2 * np.pi) + 0.5) * (self._room.shape[1] - 1)
        v = (0.5 - 0.5 * unit[..., 2]) * (self._room.shape[0] - 1)
        light = cv2.remap(self._room, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR).astype(np.float32)
        texel = np.stack([(x[on_table] + TABLE[0]) * TEXELS, (y[on_table] + TABLE[1]) * TEXELS], -1).astype(np.float32)
        points = np.stack([x[on_table], y[on_table], np.zeros(int(on_table.sum()))], -1).astype(np.float32)
        map_u, map_v = np.zeros(on_table.shape, np.float32), np.zeros(on_table.shape, np.float32)
        map_u[on_table], map_v[on_table] = texel[:, 0], texel[:, 1]
        albedo = (cv2.remap(self._table, map_u, map_v, cv2.INTER_LINEAR)[on_table].astype(np.float32) / 255.0) ** 2.2
        normals = np.broadcast_to(np.array([0, 0, 1], np.float32), points.shape)
        light[on_table] = self._shade(albedo, points, normals, -rays[on_table], 0.0)
        return light

    def _reduced(self, mask: Image) -> Floats:
        """A supersampled mask (uint8) at the camera's resolution, in [0, 1]."""
        size = (self.camera.width, self.camera.height)
        return cv2.resize(mask.astype(np.float32) / 255.0, size, interpolation=cv2.INTER_AREA)

    def _lens(self, light: Floats, distance: float) -> Floats:
        """Defocus, the pixel's own area, lateral colour, vignetting: (H', W', 3) -> (H, W, 3)."""
        s, (cx, cy), f = self._scale, self.camera.K[:2, 2], self.camera.K[0, 0]
        radius = s * (0.45 + 1.8 * abs(1.0 / distance - 1.0 / self._focus))  # circle of confusion
        light = cv2.GaussianBlur(light, (0, 0), 0.6 * s)
        size = 2 * int(np.ceil(radius)) + 1
        y, x = np.mgrid[:size, :size] - (size // 2)
        disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
        light = cv2.filter2D(light, -1, disc / disc.sum())
        light = cv2.resize(light, (self.camera.width, self.camera.height), interpolation=cv2.INTER_AREA)
        for channel, scale in ((0, 1.0009), (2, 0.9991)):
            M = np.array([[scale, 0, (1 - scale) * cx], [0, scale, (1 - scale) * cy]])
            light[..., channel] = cv2.warpAffine(light[..., channel], M, light.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        y, x = np.mgrid[: light.shape[0], : light.shape[1]]
        falloff = 1.0 / (1.0 + ((x - cx) ** 2 + (y - cy) ** 2) / f**2) ** 2  # cos⁴
        return (light * falloff[..., None]).astype(np.float32)

    def _develop(self, light: Floats, rng: np.random.Generator) -> Image:
        """Sensor and image processor: linear light (H, W, 3) -> uint8 RGB."""
        raw = light @ self._colour_matrix.T * self._gains
        raw = raw + np.sqrt(self._noise[0] * np.clip(raw, 0, None) + self._noise[1] ** 2) * rng.normal(size=raw.shape)
        raw = cv2.GaussianBlur(raw, (3, 3), 0.5)  # the processor's noise reduction
        x = np.clip(raw, 0, None)
        x = x * (1 + x / 1.6**2) / (1 + 0.55 * x)  # shoulder: highlights roll off
        return np.rint(255.0 * np.clip(x, 0, 1) ** self._gamma).astype(np.uint8)

    def close(self) -> None:
        """Free the OpenGL contexts."""
        self._renderer.close()
        self._alone.close()


def repainted(mesh: Mesh, rng: np.random.Generator) -> Image:
    """Colours (V, 3) of the mesh as they came out of the factory: a tint, less saturation, and smooth stains."""
    colours = (mesh.colours / 255.0) ** 2.2
    grey = colours.mean(1, keepdims=True)
    colours = grey + rng.uniform(0.75, 0.95) * (colours - grey)
    colours = colours * rng.uniform(0.75, 1.1, 3)
    size = mesh.vertices.max(0) - mesh.vertices.min(0)
    stains = np.zeros(len(colours))
    for _ in range(6):
        wave = rng.normal(scale=14.0, size=3)
        stains += np.sin((mesh.vertices / size.max()) @ wave + rng.uniform(0, 2 * np.pi))
    colours = colours * (1.0 + 0.05 * stains[:, None]) + 0.012
    return np.rint(255.0 * np.clip(colours, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def clutter(rng: np.random.Generator, clear: float, count: int = 11) -> Mesh:
    """Things on the table around a circle of radius `clear` (metres) that stays free."""
    parts: list[Mesh] = []
    taken = [(0.0, 0.0, clear)]
    for _ in range(400):
        if len(parts) == count:
            break
        mesh, radius = _thing(rng)
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(clear + 0.02, 0.55)
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        if all(np.hypot(x - a, y - b) > radius + r + 0.005 for a, b, r in taken):
            taken.append((x, y, radius))
            parts.append(moved(mesh, transform(exp_so3(np.array([0.0, 0.0, rng.uniform(0, 2 * np.pi)])), np.array([x, y, 0.0]))))
    return merged(parts)


def _thing(rng: np.random.Generator) -> tuple[Mesh, float]:
    """A random everyday object standing at the origin, and its radius in metres."""

    def colour() -> list[float]:
        hue = rng.uniform(0, 180)
        hsv = np.array([[[hue, rng.uniform(20, 220), rng.uniform(40, 240)]]], np.uint8)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float).tolist()

    def paint() -> Paint:
        kind = rng.integers(4)
        if kind == 0:
            return stripes(colour(), colour(), int(rng.integers(2, 9)), "uv"[int(rng.integers(2))])
        if kind == 1:
            return checker(colour(), colour(), int(rng.integers(2, 8)), int(rng.integers(2, 8)))
        return plain(colour())

    kind = rng.integers(6)
    if kind == 0:  # mug
        r, h = rng.uniform(0.032, 0.045), rng.uniform(0.07, 0.11)
        wall = lathe([(r * 0.9, 0), (r, 0.01), (r, h), (r - 0.004, h), (r - 0.006, 0.008), (0, 0.008)], paint(), 28, 0.006)
        handle = moved(ring(0.022, 0.005, plain(colour()), 24), transform(exp_so3(np.array([np.pi / 2, 0, 0])), np.array([r + 0.008, 0, h / 2])))
        return merged([wall, handle]), r + 0.035
    if kind == 1:  # book or box of cards
        x, y, z = rng.uniform(0.03, 0.10), rng.uniform(0.03, 0.07), rng.uniform(0.015, 0.05)
        return box((-x, -y, 0), (x, y, z), [paint() for _ in range(5)], 0.006), float(np.hypot(x, y))
    if kind == 2:  # ball
        r = rng.uniform(0.018, 0.035)
        t = np.linspace(-np.pi / 2, np.pi / 2, 15)
        return lathe([(max(0.0, r * np.cos(a)), r + r * np.sin(a)) for a in t], paint(), 24, 0.005), float(r)
    if kind == 3:  # can or bottle
        r, h = rng.uniform(0.022, 0.036), rng.uniform(0.08, 0.15)
        return lathe([(r, 0), (r, h * 0.8), (r * 0.55, h), (0, h)], paint(), 26, 0.005), float(r)
    if kind == 4:  # toy blocks
        a = rng.uniform(0.013, 0.02)
        lower = box((-a, -a, 0), (a, a, 2 * a), [paint() for _ in range(5)], 0.004)
        upper = box((-a, -a, 0), (a, a, 2 * a), [paint() for _ in range(5)], 0.004)
        turn = transform(exp_so3(np.array([0, 0, rng.uniform(0, 1.5)])), np.array([0, 0, 2 * a]))
        return merged([lower, moved(upper, turn)]), 1.5 * a
    x, y, z = rng.uniform(0.02, 0.05), rng.uniform(0.02, 0.04), rng.uniform(0.06, 0.12)  # carton
    return box((-x, -y, 0), (x, y, z), [paint() for _ in range(5)], 0.006), float(np.hypot(x, y))


def table_texture(rng: np.random.Generator) -> Image:
    """A table top (H, W, 3) uint8 with TEXELS pixels per metre: wood, a woven cloth or a printed one, with a sheet of paper on it."""
    width, height = (round(2 * float(side) * TEXELS) for side in TABLE)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    base = rng.uniform(70, 190, 3).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:  # wood: stretched noise
        grain = cv2.resize(rng.normal(size=(height // 6, width // 90)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        base = np.array([175, 128, 84], np.float32) * rng.uniform(0.6, 1.15)
        image = base * (1 + 0.10 * grain[..., None] + 0.04 * np.sin(y / 24 + 2 * grain)[..., None])
    elif kind == 1:  # cloth with a check
        pitch = rng.uniform(25, 70)
        lines = ((np.floor(x / pitch) % 2) + (np.floor(y / pitch) % 2)) / 2
        other = rng.uniform(60, 230, 3).astype(np.float32)
        image = base * (1 - lines[..., None]) + other * lines[..., None]
        image *= 1 + 0.06 * np.sin(x * 2.1)[..., None] * np.sin(y * 2.1)[..., None]
    else:  # printed cloth
        print_ = cv2.resize(procedural_image(rng, 512), (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        image = 0.3 * print_ + 0.7 * (0.6 * base.mean() + 0.4 * base)
    blotches = cv2.resize(rng.normal(size=(9, 12)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    image = image * (1 + 0.06 * blotches[..., None]) + rng.normal(scale=3.0, size=(height, width, 1))
    image = np.clip(image, 12, 245).astype(np.uint8)
    for _ in range(int(rng.integers(1, 4))):  # sheets of paper with lines of text
        cx, cy = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
        angle = rng.uniform(0, np.pi)
        axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        a4 = np.array([[-148, -105], [148, -105], [148, 105], [-148, 105]]) @ axes + (cx, cy)
        cv2.fillConvexPoly(image, a4.astype(np.int32), (232, 230, 224), cv2.LINE_AA)
        for row in range(-85, 86, 12):
            begin, end = np.array([[-125, row], [rng.uniform(-60, 125), row]]) @ axes + (cx, cy)
            cv2.line(image, tuple(begin.astype(int).tolist()), tuple(end.astype(int).tolist()), (90, 90, 96), 3, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def room_texture(rng: np.random.Generator) -> Floats:
    """The room's light (256, 512, 3) by direction, out of focus; it joins at ±180°."""
    half = procedural_image(rng, 256).astype(np.float32)
    room = np.hstack([half, half[:, ::-1]])
    room = cv2.GaussianBlur(0.35 * room + 0.65 * room.mean(2, keepdims=True), (0, 0), 9.0)
    return ((room / 255.0) ** 2.2 * rng.uniform(0.4, 0.9)).astype(np.float32)


def scattered_pose(rng: np.random.Generator) -> Array:
    """T_camera_object (4, 4) as someone takes who walks around the object: 10–80° above the table, 0.65–1.1 m away."""
    z, azimuth = rng.uniform(np.sin(np.radians(10)), np.sin(np.radians(80))), rng.uniform(0, 2 * np.pi)
    r = np.sqrt(1 - z * z)
    T = look_at(np.array([r * np.cos(azimuth), r * np.sin(azimuth), z]), rng.uniform(0.65, 1.1), CENTER)
    aim = np.array([rng.uniform(-0.16, 0.16), rng.uniform(-0.11, 0.11), np.radians(rng.uniform(-20, 20))])
    return transform(exp_so3(aim), np.zeros(3)) @ T


def sequence_poses(frames: int, azimuth: float = 0.6) -> list[Array]:
    """T_camera_object of a hand-held camera that goes around the object and comes nearer, from 1.08 m to 0.67 m."""
    poses = []
    for k in range(frames):
        t = k / max(1, frames - 1)
        a = azimuth + 2 * np.pi * 0.85 * t
        elevation = np.radians(36 + 15 * np.sin(2 * np.pi * 0.9 * t + 0.6))
        direction = np.array([np.cos(a) * np.cos(elevation), np.sin(a) * np.cos(elevation), np.sin(elevation)])
        distance = 0.875 + 0.205 * np.cos(np.pi * t) + 0.012 * np.sin(9 * t)
        T = look_at(direction, distance, CENTER)
        aim = [0.07 * np.sin(2 * np.pi * 1.3 * t + 0.4), 0.10 * np.sin(2 * np.pi * 0.8 * t), 0.14 * np.sin(2 * np.pi * 0.7 * t)]
        poses.append(transform(exp_so3(np.array(aim) + 0.0015 * np.sin(np.array([47, 59, 53]) * t)), np.zeros(3)) @ T)
    return poses


def photos_of_training(mesh: Mesh, count: int, seed: int, setups: int = 6) -> "list[Photo]":
    """`count` photos from scattered viewpoints, in `setups` set-ups one after the other; a view that shows less than
    55 % of the object, or does not contain it, is taken again from elsewhere."""
    photos: list[Photo] = []
    for setup in range(setups):
        rng = np.random.default_rng([seed, 1, setup])
        studio = Studio(mesh, int(rng.integers(2**31)))
        until = round(count * (setup + 1) / setups)
        while len(photos) < until:
            T = scattered_pose(rng)
            if _contained(mesh, T, studio.camera):
                photo = studio.photograph(T, rng)
                if photo.visible_fraction > 0.55:
                    photos.append(photo)
        studio.close()
    return photos


def photos_of_sequence(mesh: Mesh, frames: int, seed: int) -> "list[Photo]":
    """The `frames` photos of the sequence, in a set-up of its own."""
    rng = np.random.default_rng([seed, 2])
    studio = Studio(mesh, int(rng.integers(2**31)))
    photos = [studio.photograph(T, rng) for T in sequence_poses(frames)]
    studio.close()
    return photos


def _contained(mesh: Mesh, T: Array, camera: Camera, margin: float = 4.0) -> bool:
    uv = camera.pixels(apply(T, mesh.vertices))
    return bool((uv.min(0) > margin).all() and (uv.max(0) < np.array([camera.width, camera.height]) - 1 - margin).all())


def simulate(output: Path, photos: int = 120, frames: int = 90, seed: int = 0, quality: int = 82) -> Path:
    """Write the BOP dataset: `photos` in split train_real, a sequence of `frames` in split test, the model in millimetres.

    quality: of the JPEG files, 0–100.
    """
    mesh = demo_object()
    write_model(output, mesh)
    write_split(output / SPLITS[0], photos_of_training(mesh, photos, seed) if photos else [], CAMERA, quality)
    write_split(output / SPLITS[1], photos_of_sequence(mesh, frames, seed) if frames else [], CAMERA, quality)
    targets = [{"im_id": i, "inst_count": 1, "obj_id": OBJECT_ID, "scene_id": 1} for i in range(frames)]
    write_atomically(output / "test_targets_bop19.json", json.dumps(targets).encode())
    return output


def write_model(output: Path, mesh: Mesh) -> None:
    """models/obj_000001.ply and models_info.json, millimetres."""
    minimum, maximum = mesh.box
    names = ("min_x", "min_y", "min_z", "size_x", "size_y", "size_z")
    values = np.concatenate([minimum, maximum - minimum]) / MM
    info = {str(OBJECT_ID): {"diameter": mesh.diameter / MM, **dict(zip(names, values.tolist(), strict=True))}}
    write_atomically(output / "models" / "models_info.json", json.dumps(info).encode())
    write_atomically(output / "models" / f"obj_{OBJECT_ID:06d}.ply", ply(mesh))


def ply(mesh: Mesh, unit: float = MM) -> bytes:
    """A binary PLY in units of `unit` metres, with normals and colours."""
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header\n"]
    vertices = np.zeros(len(mesh.vertices), [("p", "<f4", 3), ("n", "<f4", 3), ("c", "u1", 3)])
    vertices["p"], vertices["n"], vertices["c"] = mesh.vertices / unit, mesh.normals, mesh.colours
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("v", "<i4", 3)])
    faces["count"], faces["v"] = 3, mesh.faces
    return "\n".join(header).encode() + vertices.tobytes() + faces.tobytes()


def write_split(folder: Path, photos: Sequence[Photo], camera: Camera, quality: int) -> None:
    """One scene, 000001, with the images rgb/000000.jpg …, scene_camera.json, scene_gt.json and scene_gt_info.json."""
    scene = folder / "000001"
    cameras, truths, infos = {}, {}, {}
    for i, photo in enumerate(photos):
        content = cv2.imencode(".jpg", photo.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        write_atomically(scene / "rgb" / f"{i:06d}.jpg", content.tobytes())
        T = photo.T_camera_object
        cameras[str(i)] = {"cam_K": camera.K.ravel().tolist(), "depth_scale": 1.0}
        truths[str(i)] = [{"cam_R_m2c": T[:3, :3].ravel().tolist(), "cam_t_m2c": (T[:3, 3] / MM).tolist(), "obj_id": OBJECT_ID}]
        infos[str(i)] = [
            {
                "bbox_obj": bounding_box(photo.silhouette),
                "bbox_visib": bounding_box(photo.visible),
                "px_count_all": int((photo.silhouette > 0.5).sum()),
                "px_count_valid": int((photo.silhouette > 0.5).sum()),
                "px_count_visib": int((photo.visible > 0.5).sum()),
                "visib_fract": photo.visible_fraction,
            }
        ]
    for name, values in (("scene_camera", cameras), ("scene_gt", truths), ("scene_gt_info", infos)):
        lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in values.items())
        write_atomically(scene / f"{name}.json", f"{{\n{lines}\n}}\n".encode())


def bounding_box(mask: Floats) -> list[int]:
    """BOP's [x, y, width, height] of what a mask covers by more than half."""
    rows, columns = np.nonzero(mask > 0.5)
    if not len(rows):
        return [-1, -1, -1, -1]
    return [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
