"""How objects stand (support.Stance), from labelled photographs: in each, the plane that most of the models touch from
above; and how it lies as seen from each object, in the median of the photographs that agree."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from fm_pose_core.geometry import Array, apply
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.places import spread
from fm_pose_core.objects.refine import Solution
from fm_pose_core.objects.refiners import compared
from fm_pose_core.objects.samples import ObjectAssets
from fm_pose_core.objects.support import FEWEST, MOST_STANCES, Stance, Standable, alike, plane_beneath, supported
from fm_pose_core.objects.validation import Case, KnownObject, judged
from fm_pose_core.rendering.mesh import Mesh

log = logging.getLogger(__name__)
MOST, LEAST, SHARE = 60, 8, 0.15  # photographs that are looked at; of one way to stand, at least: number and share
DIRECTIONS, CLOSER = 4000, (3.0, 0.8, 0.2)  # that are tried first; then around the best, degrees
BEST, AROUND = 5, 200
TOUCH = 0.004  # metres: models, labels and planes are no better
ALIKE = np.radians(10.0)  # photographs that show an object tilted by more do not show it standing so
LEAST_TILT, MOST_TILT, LEAST_LIFT, MOST_LIFT = np.radians(0.5), np.radians(5.0), 0.001, 0.02
LABEL = np.diag(np.square(np.repeat([0.002, np.radians(1.5)], 3)))  # covariance of a label

Objects = Mapping[int, tuple[Mesh, Sequence[Array]]]  # by id: mesh and symmetries
Stances = dict[int, tuple[Stance, ...]]  # by id
Plane = tuple[Array, float]  # normal and offset, as of support.plane_beneath


def learn_stances(objects: Objects, instances: Sequence[Instance]) -> Stances:
    """By object id, the ways in which it stands in labelled photographs; none where fewer than FEWEST objects stand on
    a plane. The camera is above it."""
    images: dict[tuple[int, int], list[Instance]] = defaultdict(list)
    for x in instances:
        images[x.scene_id, x.im_id].append(x)
    chosen = spread([x for x in images.values() if len(x) >= FEWEST], MOST)
    outer = {k: _outer(mesh.vertices) for k, (mesh, _) in objects.items()}
    planes = [_touched([apply(x.T_camera_object, outer[x.object_id]) for x in image]) for image in chosen]
    stances = _medians(objects, chosen, planes)
    # Once more, with the plane by how they stand in the median: nearer, as they need not touch it exactly.
    planes = [_by_stances(image, stances, objects) for image in chosen]
    return _medians(objects, chosen, planes)


def choose_stances(
    objects: Sequence[tuple[KnownObject, ObjectAssets]],
    training: Sequence[Instance],
    solved: Sequence[tuple[Case, Solution]],
    wanted: str = "auto",
) -> list[tuple[Stance, ...]]:
    """For each object, how it stands in the training images. wanted: "none", "always", or "auto": if that makes the
    poses `solved`, of other images, better."""
    nothing: list[tuple[Stance, ...]] = [() for _ in objects]
    if wanted == "none":
        return nothing
    things = {known.model.id: (x.mesh, known.model.symmetries) for known, x in objects}
    learned = learn_stances(things, training)
    if wanted == "always" and not learned:
        log.warning("the training images do not show how the objects stand: fewer than three on one plane")
    if wanted == "auto" and not (learned and _better(objects, learned, solved)):
        return nothing
    return [learned.get(known.model.id, ()) for known, _ in objects]


def _better(
    objects: Sequence[tuple[KnownObject, ObjectAssets]], learned: Stances, solved: Sequence[tuple[Case, Solution]]
) -> bool:
    ways = {known.model.id: alike(learned.get(known.model.id, ()), known.model.symmetries) for known, _ in objects}
    images: dict[tuple[int, int], list[tuple[Case, Solution]]] = defaultdict(list)
    for case, solution in solved:
        images[case.instance.scene_id, case.instance.im_id].append((case, solution))
    before, after = [], []
    for own in images.values():
        cases, plain = zip(*own, strict=True)
        standing = [Standable(x.known.model.name, x.known.solver.box_corners, ways[x.known.model.id]) for x in cases]
        found = supported(plain, standing, cases[0].instance.camera)
        before += [judged(case, x) for case, x in zip(cases, plain, strict=True)]
        after += [judged(case, x) for case, x in zip(cases, found, strict=True)]
    return bool(before) and compared(before, after) < 1.0


def _outer(vertices: Array) -> Array:
    """Those that may touch a plane."""
    return np.asarray(vertices[np.unique((_directions(1000) @ vertices.T).argmax(1))])


def _directions(count: int) -> Array:
    """(count, 3), evenly over the sphere (Fibonacci)."""
    k = np.arange(count) + 0.5
    z, turn = 1.0 - 2.0 * k / count, np.pi * (1.0 + np.sqrt(5.0)) * k
    return np.stack([np.sqrt(1.0 - z * z) * np.cos(turn), np.sqrt(1.0 - z * z) * np.sin(turn), z], 1)


def _touched(points: Sequence[Array]) -> Plane | None:
    """The plane below the camera that most of the objects, each with points (M, 3) in the camera's frame, stand on;
    None where half of them do not."""
    rng = np.random.default_rng(0)
    normals, near = _directions(DIRECTIONS), 3.0 * TOUCH
    for degrees in (*CLOSER, 0.0):
        lowest = np.stack([(normals @ p.T).min(1) for p in points])  # (N, K)
        # For each normal, the level at which most of the objects begin; a level above 0 is above the camera.
        apart = np.minimum(np.square((lowest[:, None] - lowest) / near), 1.0).sum(0) + 1e3 * (lowest > 0.0)
        level, costs = apart.argmin(0), apart.min(0)
        best = np.argsort(costs)[:BEST]
        if degrees:
            around = normals[best][:, None] + np.radians(degrees) * rng.normal(size=(BEST, AROUND, 3))
            around = np.concatenate([normals[best], around.reshape(-1, 3)])
            normals, near = around / np.linalg.norm(around, axis=1, keepdims=True), TOUCH
    heights = lowest[:, best[0]] - lowest[level[best[0]], best[0]]
    standing = np.abs(heights) < TOUCH
    if standing.sum() < max(FEWEST, len(points) / 2):
        return None
    return normals[best[0]], -float(lowest[standing, best[0]].mean())


def _by_stances(image: Sequence[Instance], stances: Stances, objects: Objects) -> Plane | None:
    known = [x for x in image if x.object_id in stances]
    if len(known) < FEWEST:
        return None
    T = np.stack([x.T_camera_object for x in known])
    ways = [alike(stances[x.object_id], objects[x.object_id][1]) for x in known]
    return plane_beneath(T, np.repeat(LABEL[None], len(known), 0), ways)


def _medians(objects: Objects, images: Sequence[Sequence[Instance]], planes: Sequence[Plane | None]) -> Stances:
    samples: dict[int, list[Stance]] = defaultdict(list)
    for image, plane in zip(images, planes, strict=True):
        for x in image if plane is not None else ():
            assert plane is not None
            R, t = x.T_camera_object[:3, :3], x.T_camera_object[:3, 3]
            samples[x.object_id].append(Stance(_triple(R.T @ plane[0]), float(plane[0] @ t + plane[1]), 0.0, 0.0))
    found = {k: _ways(own, objects[k][1]) for k, own in samples.items()}
    stances = {k: x for k, x in found.items() if x}
    return stances if len(stances) >= FEWEST else {}


def _ways(samples: Sequence[Stance], symmetries: Sequence[Array]) -> tuple[Stance, ...]:
    """The most frequent way to stand, then the next one, as long as there are enough photographs of it."""
    found: list[Stance] = []
    least = max(LEAST, SHARE * len(samples))
    while len(samples) >= least and len(found) < MOST_STANCES:
        ways = [alike([x], symmetries) for x in samples]
        ups = np.array([[way.up for way in x] for x in ways])  # (M, V, 3)
        cosines = np.einsum("nk,mvk->nmv", ups[:, 0], ups)
        agree = cosines.max(2) > np.cos(ALIKE)
        first = int(agree.sum(1).argmax())
        if agree[first].sum() < least:
            break
        nearest = [x[v] for x, v in zip(ways, cosines[first].argmax(1), strict=True)]
        way = _median([x for x, good in zip(nearest, agree[first], strict=True) if good])
        found += [way] if way.tilt <= MOST_TILT and way.lift <= MOST_LIFT else []
        samples = [x for x, good in zip(samples, agree[first], strict=True) if not good]
    return tuple(found)


def _median(samples: Sequence[Stance]) -> Stance:
    up = np.median([x.up for x in samples], 0)
    up /= np.linalg.norm(up)
    heights = np.array([x.height for x in samples])
    height = float(np.median(heights))
    angles = np.arccos(np.clip([np.dot(x.up, up) for x in samples], -1.0, 1.0))
    # Medians of normally distributed deviations, about two axes and along one, are 1.18 and 0.67 standard deviations.
    tilt, lift = float(np.median(angles)) / 1.1774, float(np.median(np.abs(heights - height))) / 0.6745
    return Stance(_triple(up), height, max(tilt, LEAST_TILT), max(lift, LEAST_LIFT))


def _triple(v: Array) -> tuple[float, float, float]:
    x, y, z = v.tolist()
    return x, y, z
