"""What stands around the demo's object in its photographs: a textured table, clutter, and the room."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import exp_so3, transform
from fm_pose_core.rendering.backgrounds import procedural_image
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.simulation.tugboat import Paint, box, checker, lathe, merged, moved, plain, ring, stripes

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

TABLE = np.array([0.95, 0.75])  # half sides, metres
TEXELS = 1000.0  # of the table's texture per metre


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
            parts.append(
                moved(mesh, transform(exp_so3(np.array([0.0, 0.0, rng.uniform(0, 2 * np.pi)])), np.array([x, y, 0.0])))
            )
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
        wall = lathe(
            [(r * 0.9, 0), (r, 0.01), (r, h), (r - 0.004, h), (r - 0.006, 0.008), (0, 0.008)], paint(), 28, 0.006
        )
        handle = moved(
            ring(0.022, 0.005, plain(colour()), 24),
            transform(exp_so3(np.array([np.pi / 2, 0, 0])), np.array([r + 0.008, 0, h / 2])),
        )
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
    """A table top (H, W, 3) uint8 with TEXELS pixels per metre: wood, a woven cloth or a printed one, with a sheet of
    paper on it."""
    width, height = (round(2 * float(side) * TEXELS) for side in TABLE)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    base = rng.uniform(70, 190, 3).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:  # wood: stretched noise
        grain = cv2.resize(
            rng.normal(size=(height // 6, width // 90)).astype(np.float32),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
        base = np.array([175, 128, 84], np.float32) * rng.uniform(0.6, 1.15)
        image = base * (1 + 0.10 * grain[..., None] + 0.04 * np.sin(y / 24 + 2 * grain)[..., None])
    elif kind == 1:  # cloth with a check
        pitch = rng.uniform(25, 70)
        lines = ((np.floor(x / pitch) % 2) + (np.floor(y / pitch) % 2)) / 2
        other = rng.uniform(60, 230, 3).astype(np.float32)
        image = base * (1 - lines[..., None]) + other * lines[..., None]
        image *= 1 + 0.06 * np.sin(x * 2.1)[..., None] * np.sin(y * 2.1)[..., None]
    else:  # printed cloth
        print_ = cv2.resize(procedural_image(rng, 512), (width, height), interpolation=cv2.INTER_CUBIC).astype(
            np.float32
        )
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
            cv2.line(
                image, tuple(begin.astype(int).tolist()), tuple(end.astype(int).tolist()), (90, 90, 96), 3, cv2.LINE_AA
            )
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def room_texture(rng: np.random.Generator) -> Floats:
    """The room's light (256, 512, 3) by direction, out of focus; it joins at ±180°."""
    half = procedural_image(rng, 256).astype(np.float32)
    room = np.hstack([half, half[:, ::-1]])
    room = cv2.GaussianBlur(0.35 * room + 0.65 * room.mean(2, keepdims=True), (0, 0), 9.0)
    return ((room / 255.0) ** 2.2 * rng.uniform(0.4, 0.9)).astype(np.float32)
