"""The object of the demo: a toy tugboat, built in code. 13 cm long, asymmetric in shape and in paint.

Everything is made of rectangular grids of vertices, bent into shape and painted vertex by vertex:

    mesh = demo_object()      # x: ahead, y: to port, z: up; the origin is below the middle of the flat bottom; metres
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array, transform
from fm_pose_core.rendering.mesh import Mesh

Paint = Callable[[Array, Array, Array], Array]
"""(points (M, N, 3) in metres, u (M, N), v (M, N) in [0, 1] over the grid) -> colours (M, N, 3) in 0–255."""

SPACING = 0.0035  # metres between vertices, about

WHITE, BLACK, RED, DARK_RED = (236, 232, 220), (28, 28, 32), (205, 38, 34), (122, 22, 26)
BLUE, SKY, YELLOW, ORANGE = (28, 62, 150), (96, 168, 214), (242, 196, 32), (234, 116, 24)
GREEN, TEAL, WOOD, DARK_WOOD = (42, 132, 62), (20, 128, 132), (190, 140, 84), (134, 88, 46)

LETTERS = {
    "F": ("#####", "#....", "#....", "####.", "#....", "#....", "#...."),
    "M": ("#...#", "##.##", "#.#.#", "#.#.#", "#...#", "#...#", "#...#"),
    "7": ("#####", "....#", "...#.", "..#..", "..#..", ".#...", ".#..."),
}


def plain(colour: Sequence[float]) -> Paint:
    """One colour all over."""
    return lambda p, u, v: np.broadcast_to(np.asarray(colour, np.float64), p.shape)


def stripes(a: Sequence[float], b: Sequence[float], count: float, across: str = "u") -> Paint:
    """`count` stripes of alternating colours along u or v."""
    return lambda p, u, v: pick(np.floor((u if across == "u" else v) * count * 0.9999) % 2 == 0, a, b)


def checker(a: Sequence[float], b: Sequence[float], columns: int, rows: int) -> Paint:
    """A chessboard of `columns` along u and `rows` along v."""
    return lambda p, u, v: pick((np.floor(u * columns * 0.9999) + np.floor(v * rows * 0.9999)) % 2 == 0, a, b)


def pick(where: NDArray[np.bool_], a: Sequence[float] | Array, b: Sequence[float] | Array) -> Array:
    """Colour a where true, b elsewhere: (M, N) -> (M, N, 3)."""
    return np.where(where[..., None], np.asarray(a, np.float64), np.asarray(b, np.float64))


def surface(points: Array, inside: Sequence[float], paint: Paint) -> Mesh:
    """A grid of points (M, N, 3) in metres as a mesh whose normals point away from the point `inside`."""
    m, n = points.shape[:2]
    index = np.arange(m * n).reshape(m, n)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    vertices = points.reshape(-1, 3)
    corners = vertices[faces]  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if (cross * (corners.mean(1) - np.asarray(inside))).sum() < 0:
        faces, cross = faces[:, ::-1], -cross
    faces = faces[np.linalg.norm(cross, axis=1) > 1e-12]  # a cone's tip makes triangles without area
    normals = np.zeros_like(vertices)
    corners = vertices[faces]
    np.add.at(
        normals, faces.ravel(), np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).repeat(3, 0)
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    # A tip's spare vertex has no triangle.
    normals = np.where(length > 0, normals / np.where(length > 0, length, 1.0), [0.0, 0.0, 1.0])
    v, u = np.meshgrid(np.linspace(0, 1, m), np.linspace(0, 1, n), indexing="ij")
    colours = np.clip(np.rint(paint(points, u, v)), 0, 255).astype(np.uint8).reshape(-1, 3)
    return Mesh(vertices, normals, colours, faces.astype(np.int64))


def merged(parts: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    return Mesh(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.normals for p in parts]),
        np.concatenate([p.colours for p in parts]),
        np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=True)]),
    )


def moved(mesh: Mesh, T: Array) -> Mesh:
    """The mesh after a rigid transform (4, 4)."""
    R, t = T[:3, :3], T[:3, 3]
    return Mesh(mesh.vertices @ R.T + t, mesh.normals @ R.T, mesh.colours, mesh.faces)


def quad(
    a: Sequence[float],
    b: Sequence[float],
    c: Sequence[float],
    d: Sequence[float],
    inside: Sequence[float],
    paint: Paint,
    spacing: float,
) -> Mesh:
    """A flat or ruled four-sided patch: u runs from a to b, v from a to d; corners in order a, b, c, d, metres."""
    corners = [np.asarray(x, np.float64) for x in (a, b, c, d)]
    columns = 1 + max(
        1, round(max(np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[2] - corners[3])) / spacing)
    )
    rows = 1 + max(
        1, round(max(np.linalg.norm(corners[3] - corners[0]), np.linalg.norm(corners[2] - corners[1])) / spacing)
    )
    u, v = np.linspace(0, 1, columns)[None, :, None], np.linspace(0, 1, rows)[:, None, None]
    return surface(
        (1 - v) * ((1 - u) * corners[0] + u * corners[1]) + v * ((1 - u) * corners[3] + u * corners[2]), inside, paint
    )


def box(minimum: Sequence[float], maximum: Sequence[float], paints: Sequence[Paint], spacing: float = SPACING) -> Mesh:
    """A box without its bottom. paints: of the faces +x, +y, -x, -y and the top; on the sides u runs around and v
    upwards."""
    (x0, y0, z0), (x1, y1, z1) = minimum, maximum
    inside = ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
    ring = [(x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    sides = []
    for i, paint in enumerate(paints[:4]):
        (ax, ay), (bx, by) = ring[i], ring[(i + 1) % 4]
        sides.append(quad((ax, ay, z0), (bx, by, z0), (bx, by, z1), (ax, ay, z1), inside, paint, spacing))
    top = quad((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1), inside, paints[4], spacing)
    return merged([*sides, top])


def lathe(profile: Sequence[tuple[float, float]], paint: Paint, segments: int = 20, spacing: float = SPACING) -> Mesh:
    """A body of revolution about z. profile: (radius, z) corners in metres, from below upwards; u runs around, v along
    the profile."""
    corners = np.asarray(profile, np.float64)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    at = np.unique(np.concatenate([length, np.linspace(0, length[-1], 1 + max(1, round(length[-1] / spacing)))]))
    keep = np.concatenate([[True], np.diff(at) > 0.25 * spacing])
    r, z = (np.interp(at[keep], length, corners[:, i])[:, None] for i in (0, 1))
    angle = np.linspace(0.0, 2 * np.pi, segments + 1)[None]
    points = np.stack([r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z, (len(z), segments + 1))], -1)
    return surface(points, (0.0, 0.0, float(corners[:, 1].mean())), paint)


def ring(radius: float, thickness: float, paint: Paint, segments: int = 20) -> Mesh:
    """A torus about z, metres; u runs along it."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, segments + 1), np.linspace(0, 2 * np.pi, 9))
    r = radius + thickness * np.cos(v)
    return surface(np.stack([r * np.cos(u), r * np.sin(u), thickness * np.sin(v)], -1), (0.0, 0.0, 0.0), paint)


def written(
    text: str, ink: Sequence[float], ground: Paint, left: float, width: float, low: float, high: float
) -> Paint:
    """Letters of 5 × 7 squares over `ground`, in u from `left` over `width` and in v from `low` to `high`."""
    bitmap = np.array([[c == "#" for c in ".".join(LETTERS[letter][row] for letter in text)] for row in range(7)])

    def paint(p: Array, u: Array, v: Array) -> Array:
        column = np.floor((u - left) / width * bitmap.shape[1]).astype(int)
        row = np.floor((high - v) / (high - low) * 7).astype(int)
        inside = (column >= 0) & (column < bitmap.shape[1]) & (row >= 0) & (row < 7)
        ink_here = np.zeros(u.shape, bool)
        ink_here[inside] = bitmap[row[inside], column[inside]]
        return pick(ink_here, ink, ground(p, u, v))

    return paint


LENGTH, BEAM = 0.130, 0.056  # metres
INSIDE = (0.0, 0.0, 0.02)  # a point in the hull


def _half_width(s: Array) -> Array:
    """Half width of the deck at s in [0, 1] from the stern to the bow, metres."""
    return BEAM / 2 * np.minimum(0.86 + 0.6 * s, 1.0) * (1.0 - np.clip((s - 0.5) / 0.5, 0, 1) ** 2.3) + 0.0004


def _deck_height(s: Array) -> Array:
    """Height of the deck at s in [0, 1], metres: it rises towards the bow."""
    return 0.030 + 0.016 * s**2.5


def _hull() -> list[Mesh]:
    s, across = np.meshgrid(np.linspace(0, 1, 34), np.linspace(-1, 1, 13))
    bottom = np.stack([(s - 0.5) * LENGTH - 0.012 * s**2, across * 0.70 * _half_width(s), 0 * s], -1)[::6, ::3]
    stern, low = float(_half_width(np.array(0.0))), 0.70 * float(_half_width(np.array(0.0)))
    x0, h = -LENGTH / 2, 0.030
    transom = stripes(ORANGE, BLUE, 5)
    return [
        *_sides(),
        _deck(s, across),
        surface(bottom, INSIDE, plain(DARK_RED)),
        quad((x0, low, 0), (x0, -low, 0), (x0, -stern, h), (x0, stern, h), INSIDE, transom, SPACING),
    ]


def _sides() -> list[Mesh]:
    """Port and starboard, each with its own letters and colours."""
    s, t = np.meshgrid(np.linspace(0, 1, 42), np.linspace(0, 1, 12))  # along the hull, from the bottom to the deck
    x = (s - 0.5) * LENGTH - 0.012 * (1 - t) * s**2  # the stem leans forward
    y = _half_width(s) * (0.70 + 0.30 * np.sqrt(t))
    z = _deck_height(s) * t

    def port(p: Array, u: Array, v: Array) -> Array:  # u from the bow, so that letters run from left to right
        base = pick(v < 0.24, DARK_RED, pick(v < 0.36, WHITE, pick(u > 0.84, YELLOW, BLUE)))
        return np.where(((u < 0.18) & (v >= 0.36))[..., None], stripes(RED, WHITE, 6)(p, u / 0.18, v), base)

    def starboard(p: Array, u: Array, v: Array) -> Array:
        board = checker(YELLOW, BLACK, 5, 2)(p, np.clip((u - 0.08) / 0.30, 0, 1), np.clip((v - 0.36) / 0.64, 0, 1))
        base = pick(v < 0.24, DARK_RED, pick(v < 0.36, WHITE, TEAL))
        base = np.where(((u > 0.08) & (u < 0.38) & (v >= 0.36))[..., None], board, base)
        return np.where((np.hypot((u - 0.78) * 3.4, v - 0.68) < 0.24)[..., None], np.asarray(ORANGE, np.float64), base)

    return [
        surface(np.stack([x, y, z], -1)[:, ::-1], INSIDE, written("FM", WHITE, port, 0.28, 0.42, 0.40, 1.0)),
        surface(np.stack([x, -y, z], -1), INSIDE, written("7", WHITE, starboard, 0.46, 0.15, 0.40, 1.0)),
    ]


def _deck(s: Array, across: Array) -> Mesh:
    """Of planks; s in [0, 1] from the stern to the bow, across in [-1, 1]."""

    def planks(p: Array, u: Array, v: Array) -> Array:
        wood = pick(np.floor(v * 6 * 0.9999) % 2 == 0, WOOD, DARK_WOOD)
        return pick((u > 0.84) & (u < 0.94), RED, pick(np.hypot(u - 0.76, (v - 0.5) * 0.5) < 0.055, WHITE, wood))

    points = np.stack([(s - 0.5) * LENGTH, across * _half_width(s), _deck_height(s) - 0.001], -1)
    return surface(points, INSIDE, planks)


def _cabin() -> list[Mesh]:
    """The wheelhouse stands aft and to starboard, with other windows on each side."""

    def front(p: Array, u: Array, v: Array) -> Array:
        window = (v > 0.45) & (v < 0.85) & (np.floor(u * 5 * 0.9999) % 2 == 1)
        return pick(window, BLACK, pick(v > 0.2, WHITE, RED))

    def port(p: Array, u: Array, v: Array) -> Array:
        door = (u > 0.55) & (u < 0.85) & (v < 0.80)
        return pick(door, GREEN, pick((u > 0.12) & (u < 0.42) & (v > 0.45) & (v < 0.85), SKY, WHITE))

    def starboard(p: Array, u: Array, v: Array) -> Array:
        return pick(np.hypot(u - 0.5, (v - 0.60) * 0.9) < 0.24, BLACK, stripes(WHITE, ORANGE, 3, "v")(p, u, v))

    body = box(
        (-0.046, -0.020, 0.028),
        (-0.006, 0.012, 0.064),
        [front, port, checker(RED, WHITE, 3, 4), starboard, plain(WHITE)],
    )

    def roof(p: Array, u: Array, v: Array) -> Array:
        return pick((u > 0.60) & (u < 0.82), WHITE, pick((v < 0.30) & (u < 0.45), BLUE, YELLOW))

    top = box(
        (-0.050, -0.023, 0.064), (-0.001, 0.015, 0.069), [plain(ORANGE), plain(ORANGE), plain(RED), plain(RED), roof]
    )
    return [body, top]


def _at(x: float, y: float, z: float) -> Array:
    """A shift by metres as a rigid transform (4, 4)."""
    return transform(np.eye(3), np.array([x, y, z]))


def _fittings() -> list[Mesh]:
    at_mast, at_barrel = _at(0.030, 0.004, 0.030), _at(0.012, -0.014, 0.029)
    mast_profile = [(0.0028, 0.0), (0.0020, 0.052), (0.0, 0.056)]
    barrel_profile = [(0.006, 0.0), (0.0075, 0.009), (0.006, 0.018), (0.0, 0.018)]
    flag = ((0.031, 0.004, 0.068), (0.012, 0.004, 0.070), (0.012, 0.004, 0.083), (0.031, 0.004, 0.084))
    upright = transform(np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]), np.array([-0.038, 0.0155, 0.046]))
    faces = [stripes(GREEN, YELLOW, 3, "v"), plain(GREEN), plain(YELLOW), plain(GREEN), checker(YELLOW, GREEN, 2, 2)]
    return [
        _funnel(),
        moved(lathe(mast_profile, stripes(YELLOW, BLACK, 7, "v"), 8, 0.006), at_mast),
        quad(*flag, (0.02, -1, 0.07), checker(GREEN, WHITE, 3, 2), SPACING),
        moved(ring(0.0075, 0.0027, stripes(ORANGE, WHITE, 8), 16), upright),  # a lifebuoy
        box((0.003, 0.004, 0.028), (0.019, 0.020, 0.045), faces, 0.004),  # a crate
        moved(lathe(barrel_profile, stripes(BLUE, SKY, 4, "v"), 12, 0.004), at_barrel),
    ]


def _funnel() -> Mesh:
    def bands(p: Array, u: Array, v: Array) -> Array:
        return pick(v > 0.80, BLACK, pick((v > 0.45) & (v < 0.65), WHITE, RED))

    tilt = np.array([[np.cos(-0.22), 0, np.sin(-0.22)], [0, 1, 0], [-np.sin(-0.22), 0, np.cos(-0.22)]])
    profile = [(0.0085, 0.0), (0.0085, 0.026), (0.0, 0.026)]
    return moved(lathe(profile, bands, 16), transform(tilt, np.array([-0.034, 0.002, 0.067])))


def demo_object() -> Mesh:
    """The toy tugboat: about 5,000 triangles, metres."""
    return merged([*_hull(), *_cabin(), *_fittings()])
