"""Where one object stands, by the images: one place for each of its arrangements, found from its label on.

The search begins at the label and around it, by the orientations of edges (alignment.py). Where it leads, edges and
colours find the exact place (settle.py). Which of the places is the right one, both say together.

Labels may pass over a small move: somebody touched the object, and its label stayed. Each image by itself says, if
roughly, where the object is. Where that changes from one image on, the arrangement is cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, exp_so3, inverse, transform
from fm_pose_core.objects.alignment import BLURS, Aligner, Fit, View, difference
from fm_pose_core.objects.arrangements import Arrangement, apart
from fm_pose_core.objects.bop import MM, BopDataset, Instance, key
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.photographs import occluding_depth, others_in_image
from fm_pose_core.objects.settle import colour_agreements, settle
from fm_pose_core.rendering.mesh import load_mesh
from fm_pose_core.rendering.raycaster import Raycaster, raycaster_installed
from fm_pose_core.rendering.renderer import Renderer

VISIBLE = 0.3  # what shows less of the object says little of its place
MOST = 40  # images of an arrangement that are compared
MARGIN, LARGEST = 1.5, 256  # of the patch: share of the object's diameter; pixels
FACES = 15_000  # of the model: finer is not seen
FIRST_TURN = np.radians(10.0)  # from the label to the places where the search begins as well
COARSE, SOME = 6, 12  # images that are enough to search with
BEST = 4  # places of the coarse search that are followed
SURE = (np.radians(4.0), 0.02)  # radians, metres: standard deviations beyond which nobody knows the place
SAME = 0.02  # agreement: two places whose agreement differs by less explain the images alike
COLOURS = 0.2  # agreement for each pixel by which an outline agrees better with the colours
RENDERINGS = 12  # of the model, until it has settled
ANYWHERE = 1e3  # deviation, in units of what nobody labels so wrong: nothing is known of a place
MERGE = 4.0  # deviations a coordinate, by which two finds of one place may differ: they are no better known
ALIKE = (np.radians(1.0), 0.002)  # radians, metres: two places that are so near need not both be followed
OTHER = (np.radians(4.0), 0.1)  # radians, diameters: two places of which one is off by more are not the same
# Labels are rarely off by more than this: a place that is farther from the label by one such unit must agree better
# with the images, by so much (growing with the square).
USUAL, DOUBT = (np.radians(15.0), 0.015), 0.005
FAR = (np.radians(45.0), 0.5)  # radians, diameters: nobody labels so wrong; it is another object, or a mistake here
# Where each image by itself has the object: it is looked for about the arrangement's place, and errs besides.
ALONE = np.diag(np.square(np.repeat([0.015, np.radians(8.0)], 3)))
TELLS = 0.9  # of these variances, in the mean: an image that leaves more of them says nothing
SCATTER = np.diag(np.square(np.repeat([0.003, np.radians(2.0)], 3)))
# By so much less is the sum of squared deviations (chi square) in two parts, and by so much better does a part's own
# place agree: the object was moved.
MOVED, BETTER = 20.0, 0.1
SIZE_KNOWN, SIZE_FAR = 0.01, 0.1  # standard deviation of a size that tells something; none is off by more

Item = TypeVar("Item")


@dataclass(frozen=True)
class Place:
    """Where the object stands in some arrangements, by the images. fit: of its centre. lead: by how much it is better
    than any other place near the label, with `doubt`."""

    arrangements: list[Arrangement]
    fit: Fit
    lead: float

    @property
    def unsure(self) -> str:
        """Why the images do not say where the object is, or nothing."""
        angle, distance = self.fit.deviations
        if angle > SURE[0] or distance > SURE[1]:
            return f"the images leave it open: ± {np.degrees(angle):.1f}°, ± {distance / MM:.0f} mm"
        return "the images agree with two places alike" if self.lead < SAME else ""


@dataclass(frozen=True)
class _Patch:
    """The surroundings of the object in an image, of that number, see `Aligner.patch`. T_world_center (4, 4): by the
    image's own label. front: see `View`; 0 outside of the image."""

    image: int
    pixels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    T_view_world: Array
    T_world_center: Array
    front: NDArray[np.float32]


class Places:
    """All arrangements of one object; `find` cuts those in which it was moved. Poses are of its centre here, as in
    `Aligner`; T_object_center (4, 4). `close` it where it was made."""

    def __init__(self, dataset: BopDataset, instances: Sequence[Instance], arrangements: Sequence[Arrangement]) -> None:
        self.model = dataset.model(arrangements[0].object_id)
        self.arrangements = list(arrangements)
        self.instances = {key(x): x for x in instances if x.object_id == self.model.id}
        own = list(self.instances.values())
        nearest = float(np.quantile([x.T_camera_object[2, 3] for x in own], 0.05))
        native = MARGIN * self.model.diameter / nearest * max(x.camera.K[0, 0] for x in own)
        crop = Crop.around(self.model.diameter, nearest, MARGIN, int(np.clip(native, 64, LARGEST)))
        draws = Raycaster if raycaster_installed() else Renderer  # which takes three times as long without a GPU
        self.aligner = Aligner(load_mesh(self.model.mesh_path, MM).simplified(FACES), crop, draws)
        self.T_object_center = transform(np.eye(3), self.aligner.center)
        self.patches = self._patches(dataset, instances)

    def close(self) -> None:
        """Free the renderer."""
        self.aligner.close()

    def find(self, tell: Callable[[int], object]) -> list[Place]:
        """The places of all arrangements that have one. tell: see `relabel.relabel`."""
        places = self._join(tell)
        self._measure(places)
        result = []
        for place in places:
            views = self._views(place.arrangements)
            fit = self._settle(views, place.fit.T_world_center)
            if fit is not None:
                result.append(replace(place, fit=self._doubted(fit, views)))
        return result

    def label(self, a: Arrangement) -> Array:
        """T_world_center (4, 4) of an arrangement's label."""
        return a.T_world_object @ self.T_object_center

    def why_none(self, a: Arrangement) -> str:
        """Why an arrangement has no place."""
        if self.patches[a.scene_id, a.images[0]]:
            return "no place near the label is found"
        own = (self.instances[a.scene_id, image, a.object_id] for image in a.images)
        if any(_shows(x) for x in own):
            return "the object was moved before it or after it"
        return f"no image shows {100 * VISIBLE:.0f} % of it"

    def agreement(self, a: Arrangement, T_world_center: Array | None = None) -> float:
        """Of an arrangement's images with a place; without one, of each image with its own label."""
        patches = self.patches[a.scene_id, a.images[0]]
        places = [p.T_world_center if T_world_center is None else T_world_center for p in patches]
        each = [self.aligner.agreement([v], T) for v, T in zip(self._views([a]), places, strict=True)]
        return float(np.mean(each))

    def gain(self, a: Arrangement, T_world_center: Array) -> float:
        """By how much a place explains an arrangement's images better than each image's own label does: edges and
        colours."""
        patches = spread(self.patches[a.scene_id, a.images[0]], SOME)
        pairs = zip(self._prepared(patches), patches, strict=True)
        each = [np.diff(self._agreements([v], [p.T_world_center, T_world_center])) for v, p in pairs]
        return float(np.mean(each))

    def near(self, T: Array, label: Array) -> bool:
        """Whether a label may be off by so much."""
        return self._within(FAR, T, label)

    def _within(self, limits: tuple[float, float], A: Array, B: Array) -> bool:
        angle, distance = apart(A, B)
        return angle < limits[0] and distance < limits[1] * self.model.diameter

    def _join(self, tell: Callable[[int], object]) -> list[Place]:
        """The place of each arrangement, cut where the object was moved; neighbours that are the same place are one."""
        places: list[Place] = []
        given, self.arrangements = self.arrangements, []
        for a in given:
            place = self._search(a, self._views([a])) if self.patches[a.scene_id, a.images[0]] else None
            parts = self._cut(a, place) if place else []
            self.arrangements += self._all(a, [x for part in parts for x in part.arrangements])
            for part in parts:
                joined = self._merged(places[-1], part) if places else None
                places[-1:] = [joined] if joined else [*places[-1:], part]
            tell(len(a.images))
        return places

    def _all(self, a: Arrangement, parts: Sequence[Arrangement]) -> list[Arrangement]:
        """An arrangement without places as it is; else its parts, and what is left between them, in order."""
        if not parts:
            return [a]
        result, end = [], 0
        for part in parts:
            begin = a.images.index(part.images[0])
            result += [self._part(a, range(end, begin), [])] if begin > end else []
            result, end = [*result, part], begin + len(part.images)
        return result

    def _part(self, a: Arrangement, chosen: Sequence[int], patches: Sequence[_Patch]) -> Arrangement:
        """Some images of an arrangement, with their patches among those of all."""
        images = [a.images[k] for k in chosen]
        self.patches[a.scene_id, images[0]] = [p for p in patches if p.image in images]
        return replace(a, images=images, T_camera_world=[a.T_camera_world[k] for k in chosen])

    def _cut(self, a: Arrangement, place: Place) -> list[Place]:
        """The place of an arrangement, or several: of the parts between which the object was moved. Images between two
        parts that tell nothing of its place by themselves, or were not asked, belong to neither."""
        patches = self.patches[a.scene_id, a.images[0]]
        prior = replace(place.fit, covariance=ALONE)
        alone = [settle(self.aligner, [view], prior) for view in self._prepared(patches)]
        found = [(p.image, fit) for p, fit in zip(patches, alone, strict=True) if fit is not None and _tells(fit)]
        off = np.array([difference(prior.T_world_center, fit.T_world_center) for _, fit in found]).reshape(-1, 6)
        weights = np.array([np.linalg.inv(fit.covariance + SCATTER) for _, fit in found]).reshape(-1, 6, 6)
        firsts = cuts(off, weights)
        first, last = ([a.images.index(found[k + step][0]) for k in firsts] for step in (0, -1))
        parts: list[tuple[int, int, Place | None]] = []
        for begin, end in zip([0, *first], [*last, len(a.images) - 1], strict=True):
            moved = self._moved(self._part(a, range(begin, end + 1), patches), place) if firsts else None
            if parts and moved is None and parts[-1][2] is None:
                begin, *_ = parts.pop()
            parts.append((begin, end, moved))
        if len(parts) == 1:
            self.patches[a.scene_id, a.images[0]] = patches
            return [place]
        return [x or self._stayed(self._part(a, range(i, j + 1), patches), place) for i, j, x in parts]

    def _moved(self, part: Arrangement, place: Place) -> Place | None:
        """The place of a part of an arrangement, if it is sure and explains the part's images much better than the
        arrangement's."""
        views = self._views([part])
        own, T = self._search(part, views), place.fit.T_world_center
        if own is None or own.unsure:
            return None
        return own if np.diff(self._agreements(views, [T, own.fit.T_world_center])) > BETTER else None

    def _stayed(self, part: Arrangement, place: Place) -> Place:
        """The place of a part that no other explains much better: found anew, without the other parts, or, if that is
        not sure, the arrangement's."""
        own = self._search(part, self._views([part]))
        if own is not None and not own.unsure:
            return own
        return replace(place, arrangements=[part], lead=min(place.lead, own.lead) if own else place.lead)

    def _measure(self, places: Sequence[Place]) -> None:
        """Find out how large the object is, as a share of its model, from the places that tell it apart from the
        distance; the others take it over."""
        found = []
        for place in places:
            fit = self._settle(self._views(place.arrangements), place.fit.T_world_center, free_size=True)
            if fit is not None and fit.size_sigma < SIZE_KNOWN and abs(fit.size - 1.0) < SIZE_FAR:
                found.append((fit.size, fit.size_sigma))
        if found:
            sizes, sigmas = np.array(found).T
            weights = sigmas**-2 / (sigmas**-2).sum()
            mean = float(weights @ sizes)
            spread = float(weights @ np.square(sizes - mean)) / max(1, len(found) - 1)
            self.aligner.size = mean
            self.aligner.size_sigma = float(np.sqrt((weights**2) @ (sigmas**2) + spread))

    def _doubted(self, fit: Fit, views: Sequence[View]) -> Fit:
        """With half of what the two ways of comparing differ by as a further uncertainty: where the model is not quite
        like the object, they err in different ways."""
        other = self.aligner.match(spread(views, SOME), fit.T_world_center)
        d = difference(fit.T_world_center, other) / 2
        return replace(fit, covariance=fit.covariance + np.outer(d, d))

    def _views(self, arrangements: Sequence[Arrangement]) -> list[View]:
        return self._prepared(spread([p for a in arrangements for p in self.patches[a.scene_id, a.images[0]]], MOST))

    def _prepared(self, patches: Sequence[_Patch]) -> list[View]:
        return [self.aligner.view(p.pixels, p.inside, p.T_view_world, p.front) for p in patches]

    def _settle(self, views: Sequence[View], T_world_center: Array, free_size: bool = False) -> Fit | None:
        """The likeliest place near one of which nothing is known. free_size: nor of the size."""
        angle, distance = FAR[0], FAR[1] * self.model.diameter
        unknown = np.diag(np.square(ANYWHERE * np.repeat([distance, angle], 3)))
        sigma = ANYWHERE if free_size else self.aligner.size_sigma
        return settle(
            self.aligner, views, Fit(T_world_center, unknown, self.aligner.size, sigma), renderings=RENDERINGS
        )

    def _agreements(self, views: Sequence[View], places: Sequence[Array]) -> Array:
        """How well each place explains the views, by edges and colours. Only differences count."""
        edges = [self.aligner.agreement(views, T) for T in places]
        colours = colour_agreements(self.aligner, views, [(T, self.aligner.size) for T in places])
        return np.asarray(edges + COLOURS * colours)

    def _patches(self, dataset: BopDataset, instances: Sequence[Instance]) -> dict[tuple[int, int], list[_Patch]]:
        """Of each arrangement, by its scene and first image."""
        shown: list[tuple[tuple[int, int], Array, Instance]] = []
        for a in self.arrangements:
            own = [self.instances[a.scene_id, image, a.object_id] for image in a.images]
            pairs = list(zip(a.T_camera_world, own, strict=True))
            visible = [(T, x) for T, x in pairs if _shows(x)]
            shown += [((a.scene_id, a.images[0]), T, x) for T, x in spread(visible, MOST)]
        seen = [
            self.aligner.patch(read_image(x.image_path), x.camera, x.T_camera_object @ self.T_object_center)
            for _, _, x in shown
        ]
        others = others_in_image([x for _, _, x in shown], instances)
        fronts = occluding_depth(dataset, others, [T_view_camera for _, _, T_view_camera in seen], self.aligner.crop)
        patches: dict[tuple[int, int], list[_Patch]] = {(a.scene_id, a.images[0]): [] for a in self.arrangements}
        for (first, T_camera_world, x), (pixels, inside, T_view_camera), front in zip(shown, seen, fronts, strict=True):
            label = x.T_camera_object @ self.T_object_center
            T_view_world = T_view_camera @ T_camera_world
            front = np.where(inside, front, np.float32(0.0))
            T_world_center = inverse(T_camera_world) @ label
            patches[first].append(_Patch(x.im_id, pixels, inside, T_view_world, T_world_center, front))
        return patches

    def _search(self, a: Arrangement, views: list[View]) -> Place | None:
        """The place near the label that explains the views best."""
        label, align = self.label(a), self.aligner
        few, some = spread(views, COARSE), spread(views, SOME)
        starts = [align.match(few, T, BLURS[0]) for T in _around(label)]
        starts.sort(key=lambda T: -align.agreement(few, T, BLURS[0]))
        fits = [self._settle(some, T) for T in _distinct([label, *starts])[: BEST + 1]]
        near = [f for f in fits if f is not None and self.near(f.T_world_center, label)]
        if not near:
            return None
        places = [f.T_world_center for f in near]
        values = self._agreements(views, places) - [doubt(T, label) for T in places]
        first = int(values.argmax())
        other = [not self._within(OTHER, T, places[first]) for T in places]
        best = self._settle(views, places[first]) or near[first]
        return Place([a], best, float(values[first] - max(values[other], default=-np.inf)))

    def _merged(self, last: Place, place: Place) -> Place | None:
        """Both in one, if the object did not move between them: one place explains the images of each as well as its
        own does, and is not farther from it than the images let one say."""
        worlds = {(a.scene_id, a.stretch) for a in (last.arrangements[0], place.arrangements[0])}
        if len(worlds) > 1:
            return None
        if squared_deviations(last.fit, place.fit) > MERGE**2:
            return None
        arrangements = [*last.arrangements, *place.arrangements]
        views = self._views(arrangements)
        start = max(last, place, key=lambda p: sum(len(a.images) for a in p.arrangements)).fit.T_world_center
        fit = self._settle(views, start)
        if fit is None:
            return None
        for part in (last, place):
            own = part.fit.T_world_center
            joint, alone = self._agreements(self._views(part.arrangements), [fit.T_world_center, own])
            if joint < alone - SAME:
                return None
        return Place(arrangements, fit, max(last.lead, place.lead))


def _shows(x: Instance) -> bool:
    """Whether an image shows enough of the object, as far as is known."""
    return not x.visible_fraction < VISIBLE


def _tells(fit: Fit) -> bool:
    """Whether an image by itself says where the object is, at least roughly."""
    return float(np.mean(np.diag(fit.covariance) / np.diag(ALONE))) < TELLS


def cuts(off: Array, weights: Array) -> list[int]:
    """Where a sequence of vectors (N, D) changes from one mean to another: the first of each part but the first. Each
    part has at least two. weights (N, D, D): inverse covariances."""
    best, gain = 0, MOVED
    whole = _scatter(off, weights)
    for k in range(2, len(off) - 1):
        less = whole - _scatter(off[:k], weights[:k]) - _scatter(off[k:], weights[k:])
        if less > gain:
            best, gain = k, less
    if not best:
        return []
    return [*cuts(off[:best], weights[:best]), best, *(best + k for k in cuts(off[best:], weights[best:]))]


def _scatter(off: Array, weights: Array) -> float:
    """The sum of squared deviations from the weighted mean."""
    total = weights.sum(0) + 1e-9 * np.eye(off.shape[1])
    mean = np.linalg.solve(total, np.einsum("nij,nj->i", weights, off))
    return float(np.einsum("ni,nij,nj->", off - mean, weights, off - mean))


def doubt(T: Array, label: Array) -> float:
    """What the agreement of a place must make up for."""
    away = np.array(apart(T, label)) / USUAL
    return DOUBT * float(away @ away)


def squared_deviations(fit: Fit, other: Fit | Array) -> float:
    """How far two places are apart, for a coordinate, in units of the variance (chi square with 6 degrees, over 6)."""
    T = other.T_world_center if isinstance(other, Fit) else other
    covariance = fit.covariance + (other.covariance if isinstance(other, Fit) else 0.0)
    d = difference(fit.T_world_center, T)
    return float(d @ np.linalg.solve(covariance, d)) / 6


def _around(T: Array) -> list[Array]:
    """The place, and twelve that are turned from it, about the vertices of an icosahedron."""
    g = (1 + np.sqrt(5)) / 2
    axes = [np.roll([0.0, s, t * g], k) / np.hypot(1, g) for k in range(3) for s in (1, -1) for t in (1, -1)]
    return [T, *(T @ transform(exp_so3(FIRST_TURN * axis), np.zeros(3)) for axis in axes)]


def _distinct(places: Sequence[Array]) -> list[Array]:
    """Without those that are an earlier one."""
    kept: list[Array] = []
    for T in places:
        if all(angle > ALIKE[0] or distance > ALIKE[1] for angle, distance in (apart(T, other) for other in kept)):
            kept.append(T)
    return kept


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of them at the most, evenly."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[k] for k in chosen]
