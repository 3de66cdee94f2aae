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


Thing = tuple[Mesh, float]
"""An everyday object standing at the origin, and its radius in metres."""


def _thing(rng: np.random.Generator) -> Thing:
    """A random one of the kinds below."""
    kinds = (_mug, _book, _ball, _bottle, _toy_blocks, _carton)
    return kinds[int(rng.integers(len(kinds)))](rng)


def _colour(rng: np.random.Generator) -> list[float]:
    hue = rng.uniform(0, 180)
    hsv = np.array([[[hue, rng.uniform(20, 220), rng.uniform(40, 240)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float).tolist()


def _paint(rng: np.random.Generator) -> Paint:
    kind = rng.integers(4)
    if kind == 0:
        return stripes(_colour(rng), _colour(rng), int(rng.integers(2, 9)), "uv"[int(rng.integers(2))])
    if kind == 1:
        return checker(_colour(rng), _colour(rng), int(rng.integers(2, 8)), int(rng.integers(2, 8)))
    return plain(_colour(rng))


def _painted_box(rng: np.random.Generator, x: float, y: float, z: float, spacing: float) -> Mesh:
    """With half sides x and y and the height z, each face in its own paint."""
    return box((-x, -y, 0), (x, y, z), [_paint(rng) for _ in range(5)], spacing)


def _mug(rng: np.random.Generator) -> Thing:
    r, h = rng.uniform(0.032, 0.045), rng.uniform(0.07, 0.11)
    profile = [(r * 0.9, 0), (r, 0.01), (r, h), (r - 0.004, h), (r - 0.006, 0.008), (0, 0.008)]
    wall = lathe(profile, _paint(rng), 28, 0.006)
    upright = transform(exp_so3(np.array([np.pi / 2, 0, 0])), np.array([r + 0.008, 0, h / 2]))
    handle = moved(ring(0.022, 0.005, plain(_colour(rng)), 24), upright)
    return merged([wall, handle]), r + 0.035


def _book(rng: np.random.Generator) -> Thing:
    x, y, z = rng.uniform(0.03, 0.10), rng.uniform(0.03, 0.07), rng.uniform(0.015, 0.05)
    return _painted_box(rng, x, y, z, 0.006), float(np.hypot(x, y))


def _ball(rng: np.random.Generator) -> Thing:
    r = rng.uniform(0.018, 0.035)
    t = np.linspace(-np.pi / 2, np.pi / 2, 15)
    return lathe([(max(0.0, r * np.cos(a)), r + r * np.sin(a)) for a in t], _paint(rng), 24, 0.005), float(r)


def _bottle(rng: np.random.Generator) -> Thing:
    r, h = rng.uniform(0.022, 0.036), rng.uniform(0.08, 0.15)
    return lathe([(r, 0), (r, h * 0.8), (r * 0.55, h), (0, h)], _paint(rng), 26, 0.005), float(r)


def _toy_blocks(rng: np.random.Generator) -> Thing:
    a = rng.uniform(0.013, 0.02)
    lower, upper = (_painted_box(rng, a, a, 2 * a, 0.004) for _ in range(2))
    turn = transform(exp_so3(np.array([0, 0, rng.uniform(0, 1.5)])), np.array([0, 0, 2 * a]))
    return merged([lower, moved(upper, turn)]), 1.5 * a


def _carton(rng: np.random.Generator) -> Thing:
    x, y, z = rng.uniform(0.02, 0.05), rng.uniform(0.02, 0.04), rng.uniform(0.06, 0.12)
    return _painted_box(rng, x, y, z, 0.006), float(np.hypot(x, y))


def table_texture(rng: np.random.Generator) -> Image:
    """A table top (H, W, 3) uint8 with TEXELS pixels per metre: wood, a woven cloth or a printed one, with a sheet of
    paper on it."""
    width, height = (round(2 * float(side) * TEXELS) for side in TABLE)
    base = rng.uniform(70, 190, 3).astype(np.float32)
    image = (_wood, _woven_cloth, _printed_cloth)[int(rng.integers(3))](rng, base, width, height)
    blotches = _enlarged(rng.normal(size=(9, 12)), width, height)
    image = image * (1 + 0.06 * blotches[..., None]) + rng.normal(scale=3.0, size=(height, width, 1))
    image = np.clip(image, 12, 245).astype(np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        _draw_paper(image, rng)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def _wood(rng: np.random.Generator, base: Floats, width: int, height: int) -> Floats:
    """Stretched noise, (height, width, 3)."""
    grain = _enlarged(rng.normal(size=(height // 6, width // 90)), width, height)
    y = np.mgrid[:height, :width][0].astype(np.float32)
    base = np.array([175, 128, 84], np.float32) * rng.uniform(0.6, 1.15)
    return base * (1 + 0.10 * grain[..., None] + 0.04 * np.sin(y / 24 + 2 * grain)[..., None])


def _woven_cloth(rng: np.random.Generator, base: Floats, width: int, height: int) -> Floats:
    """A check, (height, width, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pitch = rng.uniform(25, 70)
    lines = ((np.floor(x / pitch) % 2) + (np.floor(y / pitch) % 2)) / 2
    other = rng.uniform(60, 230, 3).astype(np.float32)
    image = base * (1 - lines[..., None]) + other * lines[..., None]
    return image * (1 + 0.06 * np.sin(x * 2.1)[..., None] * np.sin(y * 2.1)[..., None])


def _printed_cloth(rng: np.random.Generator, base: Floats, width: int, height: int) -> Floats:
    print_ = cv2.resize(procedural_image(rng, 512), (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return 0.3 * print_ + 0.7 * (0.6 * base.mean() + 0.4 * base)


def _enlarged(noise: NDArray[np.float64], width: int, height: int) -> Floats:
    return cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def _draw_paper(image: Image, rng: np.random.Generator) -> None:
    """A sheet of paper with lines of text somewhere on the table."""
    height, width = image.shape[:2]
    cx, cy = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
    angle = rng.uniform(0, np.pi)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    a4 = np.array([[-148, -105], [148, -105], [148, 105], [-148, 105]]) @ axes + (cx, cy)
    cv2.fillConvexPoly(image, a4.astype(np.int32), (232, 230, 224), cv2.LINE_AA)
    for row in range(-85, 86, 12):
        begin, end = (np.array([[-125, row], [rng.uniform(-60, 125), row]]) @ axes + (cx, cy)).astype(int).tolist()
        cv2.line(image, tuple(begin), tuple(end), (90, 90, 96), 3, cv2.LINE_AA)


def room_texture(rng: np.random.Generator) -> Floats:
    """The room's light (256, 512, 3) by direction, out of focus; it joins at ±180°."""
    half = procedural_image(rng, 256).astype(np.float32)
    room = np.hstack([half, half[:, ::-1]])
    room = cv2.GaussianBlur(0.35 * room + 0.65 * room.mean(2, keepdims=True), (0, 0), 9.0)
    return ((room / 255.0) ** 2.2 * rng.uniform(0.4, 0.9)).astype(np.float32)
