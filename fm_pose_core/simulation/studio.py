"""Photographs of the demo's object by a simulated camera: what stands in for real images in a demonstration without a
camera.

They differ from the training renderings (`rendering/renderer`, unlit) as photographs do: a lamp with soft shadows, a
fill light, light from the room, glossy and slightly repainted surfaces; a textured table with clutter that may hide a part
of the object; a lens with defocus, lateral colour and vignetting; a sensor with its own colours, shot and read noise
and a tone curve; JPEG. Poses are exact.

The world frame is the object's frame: the object stands on the table z = 0. Metres, linear light in [0, 1].
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array, inverse
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.simulation.scenery import TABLE, TEXELS, clutter, room_texture, table_texture
from fm_pose_core.simulation.tugboat import merged
from fm_pose_core.types import Camera

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

CAMERA = Camera(np.array([[571.2, 0.0, 322.6], [0.0, 571.9, 238.1], [0.0, 0.0, 1.0]]), 640, 480)
CENTER = np.array([0.0, 0.0, 0.04])  # what the camera looks at, about
SHADOW_SIZE = 1024  # pixels of the lamp's depth map


@dataclass(frozen=True)
class Photo:
    """image (H, W, 3) uint8 RGB; T_camera_object (4, 4); silhouette and visible (H, W) in [0, 1]: the share of each
    pixel that the object covers, without and with what stands before it."""

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
        self._K = np.array(
            [
                [camera.K[0, 0] * s, 0, camera.K[0, 2] * s + (s - 1) / 2],
                [0, camera.K[1, 1] * s, camera.K[1, 2] * s + (s - 1) / 2],
                [0, 0, 1],
            ]
        )
        self._size = (camera.width * s, camera.height * s)
        columns, rows = np.meshgrid(np.arange(self._size[0]), np.arange(self._size[1]))
        self._rays = np.stack(
            [(columns - self._K[0, 2]) / self._K[0, 0], (rows - self._K[1, 2]) / self._K[1, 1], np.ones_like(rows)], -1
        ).astype(np.float32)

        worn = Mesh(mesh.vertices, mesh.normals, repainted(mesh, rng), mesh.faces)
        self.clutter = clutter(rng, float(np.linalg.norm(mesh.vertices[:, :2], axis=1).max()))
        scene = merged([worn, self.clutter])
        self._renderer = Renderer(scene, self._K, *self._size)
        # Red tells the object from the clutter, green how glossy a vertex is.
        gloss = np.concatenate(
            [np.full(len(mesh.vertices), 150), rng.integers(0, 160) * np.ones(len(self.clutter.vertices))]
        )
        marks = np.column_stack(
            [np.arange(len(scene.vertices)) < len(mesh.vertices), gloss / 255.0, np.zeros(len(scene.vertices))]
        )
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
        # Shot: variance per light; read: standard deviation.
        self._noise = (rng.uniform(0.0003, 0.0009), rng.uniform(0.002, 0.005))
        self._gamma = rng.uniform(0.44, 0.52)

    def _light(self, rng: np.random.Generator, scene: Mesh) -> None:
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(30, 58))
        direction = np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        self._lamp = 1.6 * direction
        warmth = rng.uniform(-0.12, 0.12)
        self._lamp_colour = rng.uniform(0.85, 1.35) * np.array([1 + warmth, 1.0, 1 - warmth])
        turn = azimuth + rng.uniform(1.8, 4.4)
        fill = np.array([np.cos(turn), np.sin(turn), rng.uniform(0.4, 1.2)])
        self._fill, self._fill_colour = (
            fill / np.linalg.norm(fill),
            rng.uniform(0.05, 0.25) * np.array([1 - warmth, 1.0, 1 + warmth]),
        )
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
        uv = (
            (p[:, :2] / p[:, 2:] * np.float32(self._K_lamp[0, 0]) + np.float32(SHADOW_SIZE / 2)).reshape(1, -1, 2)
            if len(p)
            else np.zeros((1, 0, 2), np.float32)
        )
        seen = np.zeros(len(p), np.float32)
        width = 30000  # OpenCV's remap takes no wider map
        for begin in range(0, len(p), width):
            part, depth = uv[:, begin : begin + width], p[begin : begin + width, 2] - np.float32(0.004)
            for tap in self._taps:
                nearest = cv2.remap(
                    self._lamp_depth,
                    part + tap,
                    None,
                    cv2.INTER_NEAREST,
                    borderMode=cv2.BORDER_CONSTANT,
                    borderValue=100.0,
                )
                seen[begin : begin + width] += nearest[0] > depth
        return seen / np.float32(len(self._taps))

    def _shade(
        self, albedo: Floats, points: Floats, normals: Floats, to_camera: Floats, gloss: Floats | float
    ) -> Floats:
        """(N, 3) each, world frame, and gloss (N,) -> outgoing linear light (N, 3): lamp, fill light, sky and table
        bounce."""
        to_lamp = self._lamp.astype(np.float32) - points
        to_lamp /= np.linalg.norm(to_lamp, axis=1, keepdims=True)
        lit = self._unshadowed(points + 0.002 * normals)
        lambert = np.clip((normals * to_lamp).sum(1), 0, None) * lit
        half = to_lamp + to_camera
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
        shine = np.clip((normals * half).sum(1), 0, None) ** 45.0 * lit * gloss
        up = 0.5 + 0.5 * normals[:, 2:]
        light = (
            lambert[:, None] * self._lamp_colour + np.clip(normals @ self._fill, 0, None)[:, None] * self._fill_colour
        )
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
        # The depth buffer is not antialiased.
        depth = np.where(depth > 0, depth, cv2.dilate(depth, np.ones((3, 3), np.uint8)))
        at = (colour[..., 3] > 0) & (depth > 0)
        alpha = colour[at, 3:].astype(np.float32) / 255.0
        albedo = np.clip(colour[at, :3] / 255.0 / alpha, 0, 1) ** 2.2
        points = (self._rays[at] * depth[at, None]) @ T[:3, :3].T + eye
        to_camera = eye - points
        to_camera /= np.linalg.norm(to_camera, axis=1, keepdims=True)
        n = normals[at] @ T[:3, :3].T
        n = np.where((n * to_camera).sum(1, keepdims=True) < 0, -n, n)  # the back of a thin flag
        gloss = np.clip(marks[at, 1] / 255.0 / alpha[:, 0], 0, 1)
        light[at] = light[at] * (1 - alpha) + alpha * self._shade(
            albedo.astype(np.float32), points, n, to_camera, gloss
        )

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
            light[..., channel] = cv2.warpAffine(
                light[..., channel], M, light.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
            )
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
