"""A dataset of "real" hands where none can be had: depth maps of a simulated sensor, in NYU's layout.

They differ from the training renderings as real ones do: another hand (other bone lengths and skin, or the rigged mesh
of a file), gestures instead of random poses, a sensor with shadows, steps, holes and ragged edges, and something behind
the hand.

    fm-pose simulate OUTPUT_DIR --of hands        # writes the splits train (two people) and test (a third)
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from fm_pose_core.files import write_atomically
from fm_pose_core.geometry import Array
from fm_pose_core.hands.frames import NYU_NAME, SUBJECTS, NyuWriter
from fm_pose_core.hands.labels import DATASETS
from fm_pose_core.hands.model.skeleton import FINGERS, RIGID, Landmark, Skeleton, joint_sets
from fm_pose_core.hands.model.skin import SkinnedHand, Thickness, build_skin
from fm_pose_core.rendering.depth_sensor import DepthSensorConfig, sense
from fm_pose_core.rendering.renderer import DepthRenderer

Depth = NDArray[np.float32]
WIDTH, HEIGHT = 640, 480
UPRIGHT = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))  # fingers up in the picture (-y), palm to the camera (-z)
# Bend of thumb, index, middle, ring and pinky (0 straight, 1 closed), and how far the fingers are spread (0 to 1).
GESTURES = {
    "open": ((0.1, 0.0, 0.0, 0.0, 0.05), 0.6),
    "spread": ((0.0, 0.0, 0.0, 0.0, 0.0), 1.0),
    "fist": ((0.8, 0.95, 0.95, 0.95, 0.95), 0.0),
    "point": ((0.7, 0.0, 0.9, 0.95, 0.95), 0.1),
    "two": ((0.8, 0.0, 0.0, 0.9, 0.9), 0.7),
    "three": ((0.1, 0.0, 0.0, 0.9, 0.95), 0.6),
    "thumb": ((0.0, 0.9, 0.95, 0.95, 0.95), 0.0),
    "pinch": ((0.45, 0.5, 0.15, 0.1, 0.1), 0.4),
    "hook": ((0.3, 0.6, 0.6, 0.6, 0.6), 0.1),
    "grasp": ((0.4, 0.4, 0.42, 0.45, 0.5), 0.5),
    "horns": ((0.7, 0.0, 0.9, 0.9, 0.0), 0.3),
    "relaxed": ((0.25, 0.2, 0.27, 0.33, 0.4), 0.3),
    "four": ((0.8, 0.0, 0.0, 0.0, 0.0), 0.4),
    "call": ((0.0, 0.9, 0.95, 0.9, 0.0), 0.4),
}

Person = tuple[SkinnedHand, tuple[Landmark, ...]]


def people(count: int, rng: np.random.Generator, hand: SkinnedHand | None = None) -> list[Person]:
    """Hands with bone lengths of their own: of `hand`'s skin, or of a skin that is not the training's (plumper,
    knuckles less marked)."""
    result = []
    for _ in range(count):
        start = hand.skeleton if hand is not None else Skeleton()
        mirror = np.array([-1.0 if start.left else 1.0, 1.0, 1.0])
        offsets = start.offsets * mirror * rng.uniform(0.93, 1.07) * rng.uniform(0.95, 1.05, (len(start.bones), 1))
        skeleton = start.with_offsets(offsets)
        placed = joint_sets()["nyu14"]
        if hand is not None:
            skin = with_forearm(hand).reshaped(skeleton)
        else:
            thickness = Thickness(
                (0.0112, 0.0098, 0.0092, 0.0080),
                (0.0142, 0.0126, 0.0115, 0.0096),
                0.0118,
                (0.030, 0.023),
                0.10,
                rng.uniform(0.9, 1.1),
            )
            skin = build_skin(skeleton, thickness, faces=6000)
        result.append((skin, placed))
    return result


def with_forearm(
    hand: SkinnedHand,
    length: float = 0.25,
    wrist: tuple[float, float] = (0.032, 0.026),
    end: tuple[float, float] = (0.044, 0.039),
) -> SkinnedHand:
    """A rigged hand often ends at the wrist; nobody's does. A cone of elliptic section from just inside the hand on:
    half its width and thickness at both ends, metres."""
    local, faces = _cone(length, wrist, end)
    bone = hand.skeleton.names.index("forearm")
    R, origin = hand.skeleton.frames(hand.bind[None])
    weights = np.zeros((len(local), len(hand.skeleton.bones)))
    weights[:, bone] = 1.0
    vertices = np.vstack([hand.vertices, local @ R[0, bone].T + origin[0, bone]])
    faces = np.vstack([hand.faces, faces + len(hand.vertices)])
    return SkinnedHand(hand.skeleton, hand.bind, vertices, faces, np.vstack([hand.weights, weights]))


def _cone(
    length: float, first: tuple[float, float], last: tuple[float, float], sides: int = 32, rings: int = 12
) -> tuple[Array, NDArray[np.int64]]:
    """Vertices (V, 3) and faces (F, 3) of a closed cone of elliptic section along y, metres."""
    y = np.linspace(-0.012, length, rings)
    t = np.clip(y / length, 0, 1)[:, None]
    around = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    x, z = (((1 - t) * first[k] + t * last[k]) * circle for k, circle in enumerate((np.cos(around), np.sin(around))))
    vertices = np.stack([x, np.repeat(y[:, None], sides, 1), z], -1).reshape(-1, 3)
    vertices = np.vstack([vertices, [0, y[0], 0], [0, y[-1], 0]])  # the middles of the two lids
    i, j = np.arange(sides), (np.arange(sides) + 1) % sides
    k = sides * np.arange(rings - 1)[:, None]
    top, bottom = len(vertices) - 2, len(vertices) - 1
    triangles = (
        (k + i, k + sides + i, k + j),
        (k + j, k + sides + i, k + sides + j),
        (i, j, np.full(sides, top)),
        (sides * (rings - 1) + j, sides * (rings - 1) + i, np.full(sides, bottom)),
    )
    return vertices, np.vstack([np.stack(corners, -1).reshape(-1, 3) for corners in triangles])


def gesture_pose(skeleton: Skeleton, bends: Sequence[float], spread: float, rng: np.random.Generator) -> Array:
    """Joint angles (A,) of a gesture, as in GESTURES, as a person makes it: about."""
    angles = np.clip(rng.normal(scale=np.radians(4), size=len(skeleton.angles)), skeleton.least, skeleton.largest)
    for finger, bend in zip(FINGERS, bends, strict=True):
        for bone in ("proximal", "middle", "distal"):
            if f"{finger}_{bone}_x" in skeleton.angles:
                k = skeleton.angles.index(f"{finger}_{bone}_x")
                angles[k] = np.clip(bend + rng.normal(scale=0.06), 0, 1) * skeleton.largest[k]
    for finger, way in (("index", -1.0), ("ring", 0.6), ("pinky", 1.0)):
        k = skeleton.angles.index(f"{finger}_proximal_z")
        angles[k] = np.clip(
            way * spread * np.radians(14) * (1 - bends[FINGERS.index(finger)]), skeleton.least[k], skeleton.largest[k]
        )
    k = skeleton.angles.index("thumb_metacarpal_x")
    angles[k] = np.clip(bends[0], 0, 1) * 0.8 * skeleton.largest[k]
    for axis in "xz":
        k = skeleton.angles.index(f"forearm_{axis}")
        angles[k] = np.clip(rng.normal(scale=np.radians(14)), skeleton.least[k], skeleton.largest[k])
    return np.clip(angles, skeleton.least, skeleton.largest)


def motion(
    skeleton: Skeleton, frames: int, rng: np.random.Generator, hold: int = 12, fingers: str = "gestures"
) -> Array:
    """Poses (frames, 6 + A) of a hand that goes from gesture to gesture, upright before the camera, and turns as it
    goes. fingers: gestures, or free: each bent by itself at random."""
    keys = []
    for _ in range(frames // hold + 2):
        pose = np.zeros(skeleton.size)
        bends, spread = (
            GESTURES[str(rng.choice(list(GESTURES)))]
            if fingers == "gestures"
            else (rng.uniform(size=5).tolist(), rng.uniform())
        )
        pose[RIGID:] = gesture_pose(skeleton, bends, spread, rng)
        turn = np.radians([rng.normal(scale=25), rng.uniform(-100, 100), rng.normal(scale=40)])
        pose[:3] = (Rotation.from_euler("ZXY", turn[[2, 0, 1]]) * UPRIGHT).as_rotvec()
        pose[3:6] = np.array([rng.uniform(-0.16, 0.16), rng.uniform(-0.08, 0.16), 1.0]) * rng.uniform(0.5, 0.95)
        keys.append(pose)
    poses = np.empty((frames, skeleton.size))
    for i in range(frames):
        k, t = divmod(i / hold, 1.0)
        a, b = keys[int(k)], keys[int(k) + 1]
        t = t * t * (3 - 2 * t)
        poses[i] = (1 - t) * a + t * b
        from_a, to_b = Rotation.from_rotvec(a[:3]), Rotation.from_rotvec(b[:3])
        between = (to_b * from_a.inv()).as_rotvec()
        poses[i, :3] = (Rotation.from_rotvec(t * between) * from_a).as_rotvec()
    return poses


def photograph(
    renderer: DepthRenderer,
    hand: SkinnedHand,
    pose: Array,
    K: Array,
    sensor: DepthSensorConfig,
    rng: np.random.Generator,
) -> Depth:
    """A depth map (HEIGHT, WIDTH) metres of the hand before something slanted (a wall, a body), as the sensor reports
    it."""
    depth = renderer.render(hand.posed(pose), K)
    rows, columns = np.nonzero(depth > 0)
    if not len(rows):
        return depth
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    far = depth.max() + rng.uniform(0.08, 1.0)
    behind = (
        far * (1 + rng.uniform(-0.15, 0.15) * (u / WIDTH - 0.5) + rng.uniform(-0.15, 0.15) * (v / HEIGHT - 0.5))
    ).astype(np.float32)
    scene = np.where(depth > 0, depth, behind)
    # Only around the hand the sensor matters; elsewhere it is the background.
    m = 24
    box = np.s_[max(0, rows.min() - m) : rows.max() + m, max(0, columns.min() - 3 * m) : columns.max() + 3 * m]
    result = np.where(rng.uniform(size=scene.shape) < 0.02, 0.0, scene).astype(np.float32)
    result[box] = sense(np.ascontiguousarray(scene[box]), K, sensor, rng)
    return result


def simulate_hands(
    output: Path,
    train: int = 2000,
    test: int = 500,
    seed: int = 0,
    hand: SkinnedHand | None = None,
    sensor: DepthSensorConfig | None = None,
    fingers: str = "gestures",
    show_progress: bool = False,
) -> Path:
    """Write `train` frames of two people and `test` of a third. hand: whose skin they have, such as `rigged_hand`'s.
    fingers: see `motion`. What an older simulation left in the folder is removed."""
    dataset = DATASETS["nyu"]
    K = np.array([[dataset.fx, 0, dataset.cx], [0, dataset.fy, dataset.cy], [0, 0, 1]])
    rng = np.random.default_rng([seed, 11])
    all_people = people(3, rng, hand)
    for split, persons, count in (("train", all_people[:2], train), ("test", all_people[2:], test)):
        _remove_older(output / split, count)
        writer, joints, shares = NyuWriter(output / split), [], _shares(count, len(persons))
        for (skin, placed), frames in zip(persons, shares, strict=True):
            renderer = DepthRenderer(len(skin.vertices), skin.faces, WIDTH, HEIGHT)
            poses = motion(skin.skeleton, frames, rng, fingers=fingers)
            joints.append(skin.skeleton.points(poses, *skin.skeleton.on_bones(placed)))
            for pose in tqdm(poses, f"simulate {split}", frames, unit="frame", disable=not show_progress):
                writer.add(photograph(renderer, skin, pose, K, sensor or DepthSensorConfig(), rng))
            renderer.close()
        if count:
            writer.finish(np.concatenate(joints))
            subjects = np.repeat(np.arange(len(persons)), shares)
            write_atomically(output / split / SUBJECTS, "\n".join(map(str, subjects)).encode())
    return output


def _shares(count: int, persons: int) -> list[int]:
    """How many of `count` frames show each person: as many of each, of the first ones one more."""
    return [count // persons + (k < count % persons) for k in range(persons)]


def _remove_older(folder: Path, count: int) -> None:
    """Remove the depth maps beyond `count` of an older simulation, and its annotations where none follow. A folder
    without subjects.txt is not of a simulation and stays as it is."""
    if not (folder / SUBJECTS).is_file():
        return
    kept = {NYU_NAME.format(k + 1) for k in range(count)}
    for file in folder.glob("depth_1_*.png"):
        if re.fullmatch(r"depth_1_\d{7}\.png", file.name) and file.name not in kept:
            file.unlink()
    for name in ("labels.txt", "joint_data.mat", SUBJECTS) if not count else ():
        (folder / name).unlink(missing_ok=True)
