"""A bundle: the folder that holds all the estimator needs of one object or of hands (network, manifest, mesh). Plain
ONNX, JSON and PLY with checksums; nothing in it is executed or unpickled."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fm_pose_core import __version__
from fm_pose_core.config import from_dict, to_dict
from fm_pose_core.contract import HAND_POSE, OBJECT_POSE, Contract, hand_contract, object_contract
from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array, box_corners
from fm_pose_core.objects.crop import Crop

FORMAT = 1
TASKS = (OBJECT_POSE, HAND_POSE)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its name inside the folder and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


@dataclass(frozen=True)
class NetworkEntry:
    """The network's file, and the architecture from which the torch backend builds it again."""

    file: str
    sha256: str
    architecture: dict


@dataclass(frozen=True)
class ObjectEntry:
    """The object: box `minimum` and `maximum` and `diameter` in metres, object frame; symmetries as 16 numbers each
    (4x4 row-major, metres, the identity left out); mesh in metres, or None."""

    name: str
    id: int
    minimum: tuple[float, float, float]
    maximum: tuple[float, float, float]
    diameter: float
    symmetries: tuple[tuple[float, ...], ...]
    mesh: FileEntry | None


@dataclass(frozen=True)
class CropEntry:
    """The crop rule, see crop.Crop: pixels."""

    size: int
    focal: float


@dataclass(frozen=True)
class HandEntry:
    """The hand: names of the joints in the network's order, the bones between them (pairs of names, for a skeleton
    drawing), left or right, and the cube (side, metres) and window (pixels) that the network was trained with."""

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[str, str], ...]
    left: bool
    cube: float
    size: int


@dataclass(frozen=True)
class CalibrationEntry:
    """spread_scale: factor between the network's spread and its errors on photographs that it was not trained on
    (export)."""

    spread_scale: float


@dataclass(frozen=True)
class Manifest:
    """manifest.json. object and crop belong to task object_pose, hand to hand_pose. training: the whole configuration
    and the data it saw, for the record."""

    format: int
    task: str
    fm_pose_version: str
    network: NetworkEntry
    calibration: CalibrationEntry
    training: dict
    object: ObjectEntry | None = None
    crop: CropEntry | None = None
    hand: HandEntry | None = None


B = TypeVar("B", bound="Bundle")


@dataclass(frozen=True)
class Bundle:
    """A validated bundle. path: its folder. manifest: its typed manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls: type[B], path: str | Path) -> B:
        """Read and check the folder `path`: manifest keys, types and values, and the checksum of every file. That the
        network can be executed and keeps its contract is checked where it is loaded (runtime.load_backend).

        Gives an ObjectBundle or a HandBundle, whichever it is. Raises InputError that names what was expected and what
        came; called on one of the two classes, also if it is the other.
        """
        path = Path(path)
        expect(path.is_dir(), str(path), "a bundle (a folder with manifest.json)", "no such folder")
        file = path / MANIFEST
        expect(file.is_file(), str(path), f"a bundle with {MANIFEST}", "no such file in it")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: expected JSON, got {error}") from None
        try:
            manifest = _manifest(values)
            mesh = manifest.object.mesh if manifest.object else None
            for entry in (manifest.network, mesh):
                if entry is not None:
                    _check_file(path, entry)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        made = (ObjectBundle if manifest.task == OBJECT_POSE else HandBundle)(path, manifest)
        wanted = "a bundle of an object" if cls is ObjectBundle else "a bundle of hands"
        if not isinstance(made, cls):
            raise InputError(f"{path}: expected {wanted}, got one for {manifest.task}")
        return made

    @property
    def name(self) -> str:
        """Name of the object or hand."""
        raise NotImplementedError

    @property
    def contract(self) -> Contract:
        """What goes into the network and comes out."""
        raise NotImplementedError

    @property
    def network_path(self) -> Path:
        """The ONNX file."""
        return self.path / self.manifest.network.file


class ObjectBundle(Bundle):
    """The bundle of one object."""

    @property
    def _object(self) -> ObjectEntry:
        assert self.manifest.object is not None
        return self.manifest.object

    @property
    def name(self) -> str:
        return self._object.name

    @property
    def contract(self) -> Contract:
        return object_contract(self.crop.size)

    @property
    def object_id(self) -> int:
        """The object's number in its data set (BOP's obj_id)."""
        return self._object.id

    @property
    def box_corners(self) -> Array:
        """(8, 3) metres, object frame, in the order of geometry.box_corners."""
        return box_corners(np.array(self._object.minimum), np.array(self._object.maximum))

    @property
    def center(self) -> Array:
        """(3,) centre of the box in the object frame, metres."""
        return (np.array(self._object.minimum) + np.array(self._object.maximum)) / 2

    @property
    def dimensions(self) -> Array:
        """(3,) size of the box along x, y, z of the object frame, metres."""
        return np.array(self._object.maximum) - np.array(self._object.minimum)

    @property
    def diameter(self) -> float:
        """Largest distance between two points of the object, metres."""
        return self._object.diameter

    @property
    def symmetries(self) -> tuple[Array, ...]:
        """(4, 4) transforms (metres, object frame) that leave the object's look unchanged, without the identity."""
        return tuple(np.array(numbers).reshape(4, 4) for numbers in self._object.symmetries)

    @property
    def crop(self) -> Crop:
        """The rule by which the network's window is cut."""
        assert self.manifest.crop is not None
        return Crop(self.manifest.crop.size, self.manifest.crop.focal)

    @property
    def mesh_path(self) -> Path | None:
        """The PLY file (metres), or None."""
        return self.path / self._object.mesh.file if self._object.mesh else None


class HandBundle(Bundle):
    """The bundle of a network for hands."""

    @property
    def hand(self) -> HandEntry:
        assert self.manifest.hand is not None
        return self.manifest.hand

    @property
    def name(self) -> str:
        return self.hand.name

    @property
    def contract(self) -> Contract:
        return hand_contract(len(self.hand.joints), self.hand.size, self.hand.cube)


def write_bundle(
    path: str | Path,
    *,
    network: bytes | Path,
    architecture: dict[str, Any],
    name: str,
    object_id: int,
    minimum: Sequence[float] | Array,
    maximum: Sequence[float] | Array,
    diameter: float,
    crop: Crop,
    symmetries: Sequence[Array] = (),
    mesh: bytes | Path | None = None,
    spread_scale: float = 1.0,
    training: dict[str, Any] | None = None,
) -> ObjectBundle:
    """Write the bundle of an object and load it back. network, mesh: contents or the file to copy. minimum, maximum
    (3,), diameter and the symmetries (4, 4 each) are in metres, object frame.

    The folder is written and validated beside `path` and then renamed, so `path` never holds half a bundle. An older
    bundle there is replaced; anything else is refused. Raises InputError and leaves `path` as it was.
    """

    def entries(folder: Path) -> dict[str, Any]:
        thing = ObjectEntry(
            name=name,
            id=int(object_id),
            minimum=_triple(minimum),
            maximum=_triple(maximum),
            diameter=float(diameter),
            symmetries=tuple(tuple(np.asarray(S, dtype=np.float64).reshape(16).tolist()) for S in symmetries),
            mesh=_write(folder / "mesh.ply", mesh) if mesh is not None else None,
        )
        return {"object": thing, "crop": CropEntry(int(crop.size), float(crop.focal))}

    _write_folder(Path(path).absolute(), OBJECT_POSE, entries, network, architecture, spread_scale, training)
    return ObjectBundle.load(path)


def write_hand_bundle(
    path: str | Path,
    *,
    network: bytes | Path,
    architecture: dict[str, Any],
    hand: HandEntry,
    spread_scale: float = 1.0,
    training: dict[str, Any] | None = None,
) -> HandBundle:
    """Write the bundle of a network for hands and load it back. Otherwise as `write_bundle`."""
    _write_folder(
        Path(path).absolute(), HAND_POSE, lambda _: {"hand": hand}, network, architecture, spread_scale, training
    )
    return HandBundle.load(path)


def _write_folder(
    path: Path,
    task: str,
    entries: Callable[[Path], dict[str, Any]],
    network: bytes | Path,
    architecture: dict[str, Any],
    spread_scale: float,
    training: dict[str, Any] | None,
) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        expect(
            _looks_like_bundle(path),
            str(path),
            "nothing, an empty folder or an older bundle",
            "something else; it is left alone",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)
        network_entry = _write(temporary / "network.onnx", network)
        manifest = Manifest(
            format=FORMAT,
            task=task,
            fm_pose_version=__version__,
            network=NetworkEntry(network_entry.file, network_entry.sha256, architecture),
            calibration=CalibrationEntry(float(spread_scale)),
            training=training or {},
            **entries(temporary),
        )
        values = {k: v for k, v in to_dict(manifest).items() if v is not None}
        (temporary / MANIFEST).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        Bundle.load(temporary)
        _replace(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(values: Any) -> Manifest:
    expect(isinstance(values, dict), "the manifest", "an object with keys", type(values).__name__)
    # First what it is, so that a manifest of another kind or age isn't reported as a list of odd keys.
    expect(
        values.get("format") == FORMAT,
        "format",
        f"{FORMAT}, the version this package reads",
        repr(values.get("format")),
    )
    expect(values.get("task") in TASKS, "task", " or ".join(map(repr, TASKS)), repr(values.get("task")))
    manifest = from_dict(Manifest, values)
    of_object = manifest.task == OBJECT_POSE
    for key, wanted in (("object", of_object), ("crop", of_object), ("hand", not of_object)):
        expect(
            (getattr(manifest, key) is not None) == wanted,
            key,
            "an entry" if wanted else "none",
            f"{'none' if wanted else 'one'} for {manifest.task}",
        )
    expect(
        0 < manifest.calibration.spread_scale < math.inf,
        "calibration.spread_scale",
        "a positive number",
        manifest.calibration.spread_scale,
    )
    if manifest.object is not None and manifest.crop is not None:
        _check_object(manifest.object, manifest.crop)
    if manifest.hand is not None:
        _check_hand(manifest.hand)
    return manifest


def _check_object(thing: ObjectEntry, crop: CropEntry) -> None:
    expect(bool(thing.name), "object.name", "a name", "an empty one")
    numbers = np.array([thing.minimum, thing.maximum])
    ordered = bool(np.isfinite(numbers).all() and (numbers[1] > numbers[0]).all())
    expect(ordered, "object", "minimum below maximum on every axis", numbers.tolist())
    diagonal = float(np.linalg.norm(numbers[1] - numbers[0]))
    longest = float((numbers[1] - numbers[0]).max())
    fits = 0.99 * longest <= thing.diameter <= 1.01 * diagonal
    expect(
        fits,
        "object.diameter",
        f"between the box's longest side {longest:g} and its diagonal {diagonal:g} (metres)",
        thing.diameter,
    )
    expect(diagonal < 10.0, "object", "a box in metres, below 10 m", f"a diagonal of {diagonal:g}")
    for i, symmetry in enumerate(thing.symmetries):
        expect(
            _is_rigid(symmetry),
            f"object.symmetries[{i}]",
            "16 numbers of a rigid 4x4 transform, row-major",
            list(symmetry),
        )
    expect(8 <= crop.size <= 4096, "crop.size", "8 to 4096 pixels", crop.size)
    expect(0 < crop.focal < math.inf, "crop.focal", "a positive number of pixels", crop.focal)


def _check_hand(hand: HandEntry) -> None:
    expect(bool(hand.name), "hand.name", "a name", "an empty one")
    expect(
        0 < len(hand.joints) <= 256 and len(set(hand.joints)) == len(hand.joints),
        "hand.joints",
        "up to 256 different names",
        list(hand.joints),
    )
    for bone in hand.bones:
        expect(set(bone) <= set(hand.joints), "hand.bones", "pairs of joints", list(bone))
    expect(0 < hand.cube < 10.0, "hand.cube", "a side in metres, below 10 m", hand.cube)
    expect(8 <= hand.size <= 4096, "hand.size", "8 to 4096 pixels", hand.size)


def _is_rigid(numbers: tuple[float, ...]) -> bool:
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        return False
    T = np.array(numbers).reshape(4, 4)
    R = T[:3, :3]
    return bool(
        np.abs(R @ R.T - np.eye(3)).max() < 1e-3 and np.linalg.det(R) > 0 and np.array_equal(T[3], [0, 0, 0, 1])
    )


def _check_file(folder: Path, entry: FileEntry | NetworkEntry) -> None:
    plain = Path(entry.file).name == entry.file and entry.file not in ("", ".", "..")
    expect(plain, "file", "a file name without folders", repr(entry.file))
    file = folder / entry.file
    expect(file.is_file(), entry.file, "a file in the bundle", "no such file")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    expect(
        digest == entry.sha256, entry.file, f"sha256 {entry.sha256}", f"{digest}; the file is damaged or was exchanged"
    )


def _looks_like_bundle(path: Path) -> bool:
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return isinstance(values, dict) and {"format", "task", "network"} <= values.keys()
    except (OSError, ValueError):
        return False


def _write(file: Path, content: bytes | Path) -> FileEntry:
    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    file.write_bytes(data)
    return FileEntry(file.name, hashlib.sha256(data).hexdigest())


def _triple(values: Sequence[float] | Array) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _replace(path: Path, new: Path) -> None:
    """Rename `new` to `path`; an older bundle steps aside first, and comes back if the rename fails."""
    if not path.exists():
        os.rename(new, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    os.rename(path, old / "bundle")
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old / "bundle", path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
