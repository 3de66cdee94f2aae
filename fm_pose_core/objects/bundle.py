"""The bundle of a network for objects: it may know several, each with an output of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fm_pose_core.bundle import (
    Bundle,
    CalibrationEntry,
    FileEntry,
    Manifest,
    Network,
    NetworkEntry,
    NetworkFile,
    check_sizes,
    is_name,
    write,
    write_file,
    write_network,
)
from fm_pose_core.config import from_dict, to_dict
from fm_pose_core.contract import CORNERS, Contract, object_contract
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, box_corners
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.support import MOST_STANCES, Stance

OBJECT_POSE, DETECTOR, REFINER = "object_pose", "detector", "refiner"
REFINED_BY = ("", "edges", "features", "both")
LEARNED = ("features", "both")  # those that need a refiner in the bundle


@dataclass(frozen=True)
class ObjectEntry:
    """An object: box `minimum` and `maximum` and `diameter` in metres, object frame; symmetries as 16 numbers each (4x4
    row-major, metres, the identity left out); focal: of its window's virtual camera, pixels (crop.Crop); mesh in
    metres, or None; fill: the distance in metres at which the object fills its window, if the network was trained for a
    second look, else 0; size, size_sigma, edge_scale: what its edges are worth (edges.EdgeNoise); refined_by: what made
    poses better on real images, "edges", "features", "both" in turn, or nothing; stances: how it stands on a plane, see
    support.Stance, if that made poses better."""

    name: str
    id: int
    minimum: tuple[float, float, float]
    maximum: tuple[float, float, float]
    diameter: float
    symmetries: tuple[tuple[float, ...], ...]
    focal: float
    mesh: FileEntry | None
    fill: float = 0.0
    size: float = 1.0
    size_sigma: float = 0.02
    edge_scale: float = 1.0
    refined_by: str = ""
    stances: tuple[Stance, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ObjectManifest(Manifest):
    """objects: in the order of the network's outputs. detector: the network that finds them in an image, or None.
    refiner: the network that compares an image with a rendering, or None; refiner_scale: as spread_scale, for it.
    distance_scale: as spread_scale, for the distances that the network tells; 0: the same as that. widened: whether
    corners are taken apart before PnP, see pnp.widened."""

    objects: tuple[ObjectEntry, ...]
    detector: NetworkEntry | None = None
    refiner: NetworkEntry | None = None
    refiner_scale: float = 1.0
    distance_scale: float = 0.0
    widened: bool = False

    @property
    def files(self) -> tuple[FileEntry | NetworkEntry, ...]:
        parts = [x for x in (self.detector, self.refiner) if x is not None]
        return *super().files, *(x.mesh for x in self.objects if x.mesh is not None), *parts

    def check(self) -> None:
        expect(bool(self.objects), "objects", "at least one", "none")
        for what in ("name", "id"):
            values = [getattr(x, what) for x in self.objects]
            expect(len(set(values)) == len(values), "objects", f"a different {what} each", values)
        for i, entry in enumerate(self.objects):
            _check_object(entry, f"objects[{i}]")
        _check_contract(self.network.contract)
        answer = self.network.contract.outputs[0]
        known = math.prod(answer.shape[:-2])
        expect(known == len(self.objects), "objects", f"{known}, as the output {answer.name} has", len(self.objects))
        if self.detector is not None:
            _check_detector(self.detector.contract, len(self.objects))
        if self.refiner is not None:
            _check_refiner(self.refiner.contract, self.network.contract.size)
        expect(1e-3 <= self.refiner_scale <= 1e3, "refiner_scale", "from 0.001 to 1000", self.refiner_scale)
        told = self.distance_scale == 0.0 or 1e-3 <= self.distance_scale <= 1e3
        expect(told, "distance_scale", "0, or from 0.001 to 1000", self.distance_scale)
        for i, entry in enumerate(self.objects):
            known = entry.refined_by not in LEARNED or self.refiner is not None
            expect(known, f"objects[{i}].refined_by", "edges, or nothing, without a refiner", entry.refined_by)


@dataclass(frozen=True)
class BundledObject:
    """An object that a bundle knows. index: of its output. crop: the rule by which its window is cut. mesh_path: the
    PLY file (metres), or None."""

    entry: ObjectEntry = field(repr=False)
    index: int
    crop: Crop
    mesh_path: Path | None

    @property
    def name(self) -> str:
        """As it is called in messages."""
        return self.entry.name

    @property
    def object_id(self) -> int:
        """Its number in its data set (BOP's obj_id)."""
        return self.entry.id

    @property
    def box_corners(self) -> Array:
        """(8, 3) metres, object frame, in the order of geometry.box_corners."""
        return box_corners(np.array(self.entry.minimum), np.array(self.entry.maximum))

    @property
    def center(self) -> Array:
        """(3,) centre of the box in the object frame, metres."""
        return (np.array(self.entry.minimum) + np.array(self.entry.maximum)) / 2

    @property
    def dimensions(self) -> Array:
        """(3,) size of the box along x, y, z of the object frame, metres."""
        return np.array(self.entry.maximum) - np.array(self.entry.minimum)

    @property
    def diameter(self) -> float:
        """Largest distance between two points of the object, metres."""
        return self.entry.diameter

    @property
    def symmetries(self) -> tuple[Array, ...]:
        """(4, 4) transforms (metres, object frame) that leave its look unchanged, without the identity."""
        return tuple(np.array(numbers).reshape(4, 4) for numbers in self.entry.symmetries)


class ObjectBundle(Bundle):
    """The bundle of one object or of several."""

    TASK, WHAT, MANIFEST_TYPE = OBJECT_POSE, "a bundle of objects", ObjectManifest

    def __init__(self, path: Path, manifest: ObjectManifest) -> None:
        super().__init__(path, manifest)
        size = manifest.network.contract.size
        self.objects = tuple(
            BundledObject(x, i, Crop(size, x.focal), path / x.mesh.file if x.mesh else None)
            for i, x in enumerate(manifest.objects)
        )

    @property
    def name(self) -> str:
        return ", ".join(x.name for x in self.objects)

    @property
    def detector(self) -> Network | None:
        """The network that finds the objects in an image, if there is one."""
        entry = self.manifest.detector
        return None if entry is None else Network(self.path, entry)

    @property
    def refiner(self) -> Network | None:
        """The network that compares an image with a rendering, if there is one."""
        entry = self.manifest.refiner
        return None if entry is None else Network(self.path, entry)

    @property
    def distance_scale(self) -> float:
        """See ObjectManifest."""
        return float(self.manifest.distance_scale) or self.spread_scale

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self, *(x for x in (self.detector, self.refiner) if x is not None))

    def object(self, name: str = "") -> BundledObject:
        """By its name; the empty name is that of the only one. Raises InputError for a name that is not known."""
        if not name:
            expect(len(self.objects) == 1, "object", f"one of {self.name}", "no name")
            return self.objects[0]
        found = next((x for x in self.objects if x.name == name), None)
        expect(found is not None, "object", f"one of {self.name}", repr(name))
        return found  # type: ignore[return-value]

    def describe(self) -> list[tuple[str, str]]:
        lines = []
        for x in self.objects:
            box = " x ".join(f"{1e3 * size:.1f}" for size in x.dimensions)
            symmetries = f"{len(x.symmetries)} symmetries besides the identity"
            lines += [
                ("object", f"{x.name} (id {x.object_id})"),
                ("box", f"{box} mm, diameter {1e3 * x.diameter:.1f} mm, {symmetries}"),
                ("mesh", x.mesh_path.name if x.mesh_path else "none"),
                ("window", f"{x.crop.size} x {x.crop.size} pixels, focal length {x.crop.focal:.1f} pixels"),
                ("edges", f"show a size of {x.entry.size:.3f} of the model's"),
                ("refined by", x.entry.refined_by or "nothing"),
                ("stands on a plane", f"in {len(x.entry.stances)} ways" if x.entry.stances else "unknown how"),
            ]
        parts = ((DETECTOR, self.detector), (REFINER, self.refiner))
        return [*lines, *((name, part.network.file if part else "none") for name, part in parts)]

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        old = from_dict(_Manifest1, values)
        objects = [{**to_dict(old.object), "focal": old.crop.focal}]
        contract = to_dict(object_contract(old.crop.size))
        for output in contract["outputs"]:
            output["shape"] = output["shape"][1:]  # (8, 2): format 1 knows one object
        kept = {k: v for k, v in values.items() if k not in ("object", "crop")}
        return {**kept, "network": {**values["network"], "contract": contract}, "objects": objects}


@dataclass(frozen=True)
class ObjectInBundle:
    """An object on its way into a bundle: minimum, maximum (3,), diameter and symmetries (4, 4 each) in metres, object
    frame. mesh: contents or the file to copy."""

    name: str
    id: int
    minimum: Sequence[float] | Array
    maximum: Sequence[float] | Array
    diameter: float
    focal: float
    symmetries: Sequence[Array] = ()
    mesh: bytes | Path | None = None
    fill: float = 0.0
    size: float = 1.0
    size_sigma: float = 0.02
    edge_scale: float = 1.0
    refined_by: str = ""
    stances: Sequence[Stance] = ()

    def entry(self, folder: Path) -> ObjectEntry:
        """Its entry in the manifest; the mesh is written into `folder`."""
        mesh = write_file(folder / f"obj_{int(self.id):06d}.ply", self.mesh) if self.mesh is not None else None
        symmetries = tuple(tuple(np.asarray(S, dtype=np.float64).reshape(16).tolist()) for S in self.symmetries)
        box = (_triple(self.minimum), _triple(self.maximum))
        diameter, focal, fill = float(self.diameter), float(self.focal), float(self.fill)
        return ObjectEntry(
            self.name,
            int(self.id),
            *box,
            diameter,
            symmetries,
            focal,
            mesh,
            fill,
            float(self.size),
            float(self.size_sigma),
            float(self.edge_scale),
            self.refined_by,
            tuple(self.stances),
        )


def write_object_bundle(
    path: str | Path,
    network: NetworkFile,
    objects: Sequence[ObjectInBundle],
    parts: Mapping[str, NetworkFile] | None = None,
    distance_scale: float = 0.0,
    widened: bool = False,
) -> ObjectBundle:
    """Write the bundle of `objects`, in the order of the network's outputs, and load it back; see bundle.write. parts:
    detector and refiner, as far as there are such. distance_scale, widened: see ObjectManifest."""
    parts = parts or {}

    def entries(folder: Path) -> dict[str, Any]:
        found = {k: write_network(folder / f"{k}.onnx", x) for k, x in parts.items()}
        scale = {"refiner_scale": float(parts[REFINER].spread_scale)} if REFINER in parts else {}
        return {
            "objects": tuple(x.entry(folder) for x in objects),
            "distance_scale": float(distance_scale),
            "widened": bool(widened),
            **found,
            **scale,
        }

    return write(ObjectBundle, path, network, entries)


def _check_contract(contract: Contract) -> None:
    """That the network sees colours and answers what ObjectSolver reads."""
    expect(contract.channels == 3, "network.contract.channels", "3", contract.channels)
    expect(contract.head in ("corners", "surface"), "network.contract.head", "corners or surface", repr(contract.head))
    shapes = {x.name: x.shape for x in contract.outputs}
    objects = shapes.get("corners", ())[:-2]  # none in bundles of one object
    wanted: dict[str, tuple[int, ...]] = {k: (*objects, CORNERS, 2) for k in ("corners", "spread")}
    if contract.head == "surface":
        cells = shapes.get("presence", (0,))[-1]
        expect(math.isqrt(cells) ** 2 == cells > 0, "network.contract.outputs", "a square number of cells", cells)
        wanted |= {"points": (*objects, cells, 3), "doubt": (*objects, cells), "presence": (*objects, cells)}
    if "distance" in shapes:
        wanted |= {"distance": objects, "distance_spread": objects}
    fits = list(shapes.items()) == list(wanted.items()) and len(objects) <= 1
    told, got = (", ".join(f"{k} {v}" for k, v in x.items()) for x in (wanted, shapes))
    expect(fits, "network.contract.outputs", told, got)


def _check_detector(contract: Contract, objects: int) -> None:
    """That the network sees colours and answers what Detector reads."""
    where = "detector.contract"
    check_sizes(contract, where)
    expect(contract.channels == 3, f"{where}.channels", "3", contract.channels)
    expect(contract.head == "centres", f"{where}.head", "centres", repr(contract.head))
    shapes = [(x.name, x.shape) for x in contract.outputs]
    cells = (0, 0, *shapes[0][1])[-2]
    wanted = [("centre", (objects, cells, 2)), ("heat", (objects, cells)), ("depth", (objects, cells))]
    fits = shapes in (wanted, wanted[:2]) and math.isqrt(cells) ** 2 == cells
    told = f"centre ({objects}, cells, 2), heat and perhaps depth ({objects}, cells), of a square number of cells"
    expect(fits, f"{where}.outputs", told, shapes)


def _check_refiner(contract: Contract, size: int) -> None:
    """That the network sees two windows and answers what FeatureRefiner reads."""
    where = "refiner.contract"
    check_sizes(contract, where)
    seen = contract.size, contract.channels
    expect(seen == (size, 6), where, f"{size} pixels of 6 channels", seen)
    shapes = [(x.name, x.shape) for x in contract.outputs]
    expect(contract.head == "update", f"{where}.head", "update", repr(contract.head))
    expect(shapes == [("update", (6,)), ("spread", (6,))], f"{where}.outputs", "update (6,), spread (6,)", shapes)


def _check_object(x: ObjectEntry, where: str) -> None:
    expect(is_name(x.name), f"{where}.name", "a name of letters, digits and _, as of a topic", repr(x.name)[:60])
    numbers = np.array([x.minimum, x.maximum])
    ordered = bool(np.isfinite(numbers).all() and (numbers[1] > numbers[0]).all())
    expect(ordered, where, "minimum below maximum on every axis", numbers.tolist())
    diagonal, longest = float(np.linalg.norm(numbers[1] - numbers[0])), float((numbers[1] - numbers[0]).max())
    wanted = f"between the box's longest side {longest:g} and its diagonal {diagonal:g} (metres)"
    expect(0.99 * longest <= x.diameter <= 1.01 * diagonal, f"{where}.diameter", wanted, x.diameter)
    expect(diagonal < 10.0, where, "a box in metres, below 10 m", f"a diagonal of {diagonal:g}")
    expect(1 <= x.focal <= 1e5, f"{where}.focal", "a positive number of pixels, from 1 to 100000", x.focal)
    expect(0.5 <= x.size <= 2.0, f"{where}.size", "a share of the model's size, from 0.5 to 2", x.size)
    expect(1e-4 <= x.size_sigma <= 1.0, f"{where}.size_sigma", "from 0.0001 to 1", x.size_sigma)
    expect(0.1 <= x.edge_scale <= 1e3, f"{where}.edge_scale", "from 0.1 to 1000", x.edge_scale)
    expect(x.refined_by in REFINED_BY, f"{where}.refined_by", f"one of {REFINED_BY}", x.refined_by)
    expect(x.mesh is not None or not x.refined_by, f"{where}.refined_by", "nothing without a mesh", x.refined_by)
    expect(0 <= x.fill < 1000, f"{where}.fill", "a distance in metres below 1000, or 0", x.fill)
    for i, symmetry in enumerate(x.symmetries):
        wanted = "16 numbers of a rigid 4x4 transform, row-major"
        expect(_is_rigid(symmetry), f"{where}.symmetries[{i}]", wanted, list(symmetry))
    expect(len(x.stances) <= MOST_STANCES, f"{where}.stances", f"at most {MOST_STANCES}", len(x.stances))
    for i, stance in enumerate(x.stances):
        stance.check(f"{where}.stances[{i}]")


def _is_rigid(numbers: tuple[float, ...]) -> bool:
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        return False
    T = np.array(numbers).reshape(4, 4)
    R = T[:3, :3]
    return bool(
        np.abs(R @ R.T - np.eye(3)).max() < 1e-3 and np.linalg.det(R) > 0 and np.array_equal(T[3], [0, 0, 0, 1])
    )


def _triple(values: Sequence[float] | Array) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


# Format 1: one object, its window's rule beside it.


@dataclass(frozen=True)
class _Object1:
    name: str
    id: int
    minimum: tuple[float, float, float]
    maximum: tuple[float, float, float]
    diameter: float
    symmetries: tuple[tuple[float, ...], ...]
    mesh: FileEntry | None


@dataclass(frozen=True)
class _Crop1:
    size: int
    focal: float


@dataclass(frozen=True)
class _Network1:
    file: str
    sha256: str
    architecture: dict


@dataclass(frozen=True)
class _Manifest1:
    format: int
    task: str
    fm_pose_version: str
    network: _Network1
    calibration: CalibrationEntry
    training: dict
    object: _Object1
    crop: _Crop1
