"""A bundle: the folder that holds all an estimator needs (network, manifest, meshes). Plain ONNX, JSON and PLY with
checksums; nothing in it is executed or unpickled. What each task adds is in `objects.bundle` and `hands.bundle`."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fm_pose_core import __version__
from fm_pose_core.config import from_dict, to_dict
from fm_pose_core.contract import Contract
from fm_pose_core.document import read_document
from fm_pose_core.errors import InputError, expect
from fm_pose_core.onnx_file import check_onnx_file

FORMAT = 2
MANIFEST, SAMPLE = "manifest.json", "sample.png"
LONGEST, LARGEST = 10_000_000, 500_000_000  # bytes of a manifest, and of another file
B = TypeVar("B", bound="Bundle")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its name inside the folder and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


@dataclass(frozen=True)
class NetworkEntry:
    """The network's file, the architecture from which the torch backend builds it again, and its inputs and outputs."""

    file: str
    sha256: str
    architecture: dict
    contract: Contract


@dataclass(frozen=True)
class CalibrationEntry:
    """spread_scale: factor between the network's spread and its errors on real images that it was not trained on."""

    spread_scale: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json. A task adds what it knows. training: the whole configuration and the data it saw, for the
    record. sample: a picture with a few windows, for checks of an engine, or None."""

    format: int
    task: str
    fm_pose_version: str
    network: NetworkEntry
    calibration: CalibrationEntry
    training: dict
    sample: FileEntry | None = None

    @property
    def files(self) -> tuple[FileEntry | NetworkEntry, ...]:
        """All files that the manifest names."""
        return (self.network,) if self.sample is None else (self.network, self.sample)

    def check(self) -> None:
        """Raise InputError for values that cannot be."""


class Network:
    """A network in a bundle, as an engine loads it. path: the bundle's folder. network: its entry in the manifest."""

    def __init__(self, path: Path, network: NetworkEntry) -> None:
        self.path, self.network = path, network

    @property
    def contract(self) -> Contract:
        """What goes into the network and comes out."""
        return self.network.contract

    @property
    def network_path(self) -> Path:
        """The ONNX file."""
        return self.path / self.network.file


class Bundle(Network):
    """A validated bundle, and the network in it. path: its folder. manifest: its typed manifest."""

    TASK: ClassVar[str]
    WHAT: ClassVar[str]  # in words
    MANIFEST_TYPE: ClassVar[type[Manifest]]

    def __init__(self, path: Path, manifest: Any) -> None:
        super().__init__(path, manifest.network)
        self.manifest = manifest

    @classmethod
    def load(cls: type[B], path: str | Path) -> B:
        """Read and check the folder `path`: manifest keys, types and values, and the checksum of every file. That the
        network can be executed and keeps its contract is checked where it is loaded (runtime.load_backend).

        Raises InputError that names what was expected and what came, also for a bundle of another task.
        """
        path = Path(path)
        values, file = read_manifest(path), path / MANIFEST
        if values["task"] != cls.TASK:
            raise InputError(f"{path}: expected {cls.WHAT}, got one for {values['task']}")
        try:
            manifest = from_dict(cls.MANIFEST_TYPE, cls.upgraded(values) if values["format"] == 1 else values)
            _check_common(manifest)
            manifest.check()
            for entry in manifest.files:
                _check_file(path, entry)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        return cls(path, manifest)

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A manifest of format 1 in format 2. Raises InputError for keys or types that format 1 does not have."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Of what the network knows."""
        raise NotImplementedError

    @property
    def networks(self) -> tuple[Network, ...]:
        """All that it holds, its own first."""
        return (self,)

    @property
    def spread_scale(self) -> float:
        """See CalibrationEntry."""
        return float(self.manifest.calibration.spread_scale)

    def sample(self) -> NDArray[np.generic] | None:
        """A few windows (N, *contract.image_shape) as in the training, or None. Raises InputError if the picture is not
        of such windows."""
        from fm_pose_core.window_picture import from_picture

        if self.manifest.sample is None:
            return None
        file = self.path / self.manifest.sample.file
        return from_picture(file.read_bytes(), str(file), self.contract)

    def describe(self) -> list[tuple[str, str]]:
        """What the task adds, as lines with a heading each."""
        raise NotImplementedError


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the folder `path` as it stands, its format and task known. First what it is, so that a manifest
    of another kind or age isn't reported as a list of odd keys. Raises InputError."""
    expect(path.is_dir(), str(path), f"a bundle (a folder with {MANIFEST})", "no such folder")
    file = path / MANIFEST
    expect(file.is_file(), str(path), f"a bundle with {MANIFEST}", "no such file in it")
    values = read_document(file, LONGEST).value
    expect(isinstance(values, dict), str(file), "an object with keys", type(values).__name__)
    known = values.get("format") in (1, FORMAT) and not isinstance(values["format"], bool)
    expect(known, f"{file}: format", f"1 or {FORMAT}, which this package reads", repr(values.get("format")))
    expect(isinstance(values.get("task"), str), f"{file}: task", "a text", repr(values.get("task")))
    return values


def network_file(path: Path, head: str = "") -> Path:
    """The ONNX file of the bundle in the folder `path`, of whatever task and format; its checksum is verified, and that
    it is all of the network. head: of the networks the one with this kind of h, if there is such. Raises InputError."""
    values = read_manifest(path)
    entries = [x for x in values.values() if isinstance(x, dict) and isinstance(x.get("contract"), dict)]
    entry = next((x for x in entries if x["contract"].get("head") == head), values.get("network"))
    known = isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("file", "sha256"))
    expect(known, f"{path / MANIFEST}: network", "file and sha256", entry)
    assert isinstance(entry, dict)
    _check_file(path, FileEntry(entry["file"], entry["sha256"]))
    check_onnx_file(path / str(entry["file"]))
    return path / str(entry["file"])


@dataclass(frozen=True)
class NetworkFile:
    """A network on its way into a bundle. onnx: contents, or the file to copy. spread_scale: see CalibrationEntry.
    sample: windows (N, *contract.image_shape)."""

    onnx: bytes | Path
    architecture: Mapping[str, Any]
    contract: Contract
    spread_scale: float = 1.0
    training: Mapping[str, Any] | None = None
    sample: NDArray[np.generic] | None = None


def write(cls: type[B], path: str | Path, network: NetworkFile, entries: Callable[[Path], dict[str, Any]]) -> B:
    """Write a bundle and load it back. entries: writes what else belongs into the folder that it is given, and returns
    the manifest's keys of the task.

    The folder is written and validated beside `path` and then renamed, so `path` never holds half a bundle. An older
    bundle there is replaced; anything else is refused. Raises InputError and leaves `path` as it was.
    """
    from fm_pose_core.window_picture import to_picture

    path = Path(path).absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        wanted = "nothing, an empty folder or an older bundle"
        expect(_looks_like_bundle(path), str(path), wanted, "something else; it is left alone")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)
        sample = network.sample
        manifest = cls.MANIFEST_TYPE(
            format=FORMAT,
            task=cls.TASK,
            fm_pose_version=__version__,
            network=write_network(temporary / "network.onnx", network),
            calibration=CalibrationEntry(float(network.spread_scale)),
            training=dict(network.training or {}),
            sample=None if sample is None else write_file(temporary / SAMPLE, to_picture(sample)),
            **entries(temporary),
        )
        (temporary / MANIFEST).write_text(json.dumps(to_dict(manifest), indent=2) + "\n", encoding="utf-8")
        cls.load(temporary)
        _replace(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return cls.load(path)


def write_file(file: Path, content: bytes | Path) -> FileEntry:
    """A file of a bundle, from its contents or as a copy."""
    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    file.write_bytes(data)
    return FileEntry(file.name, hashlib.sha256(data).hexdigest())


def write_network(file: Path, network: NetworkFile) -> NetworkEntry:
    """A network's file of a bundle."""
    written = write_file(file, network.onnx)
    return NetworkEntry(written.file, written.sha256, dict(network.architecture), network.contract)


def is_name(text: str) -> bool:
    """Whether something may be called so: names become topics and frames."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", text) is not None


def _check_common(manifest: Manifest) -> None:
    scale = manifest.calibration.spread_scale
    expect(1e-3 <= scale <= 1e3, "calibration.spread_scale", "a positive number from 0.001 to 1000", scale)
    check_sizes(manifest.network.contract, "network.contract")


def check_sizes(contract: Contract, where: str) -> None:
    """Raise InputError for a contract of sizes that no network has. where: in the manifest."""
    expect(8 <= contract.size <= 4096, f"{where}.size", "8 to 4096 pixels", contract.size)
    expect(contract.channels in (1, 3, 6), f"{where}.channels", "1, 3 or 6", contract.channels)
    names = [x.name for x in contract.outputs]
    expect(bool(names) and len(set(names)) == len(names), f"{where}.outputs", "different names", names)
    for output in contract.outputs:
        numbers = (*output.shape, output.scale, output.shift)
        shaped = bool(output.shape) and all(0 < x <= 10_000 for x in output.shape)
        fits = shaped and 0 < output.scale <= 1e4 and abs(output.shift) <= 1e4
        expect(fits, f"{where}.outputs, {output.name}", "a positive shape and scale, and a shift, up to 10000", numbers)


def _check_file(folder: Path, entry: FileEntry | NetworkEntry) -> None:
    plain = Path(entry.file).name == entry.file and entry.file not in ("", ".", "..")
    expect(plain, "file", "a file name without folders", repr(entry.file))
    file = folder / entry.file
    expect(file.is_file(), entry.file, "a file in the bundle", "no such file")
    size = file.stat().st_size
    expect(size <= LARGEST, entry.file, f"at most {LARGEST} bytes", size)
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    same = digest == entry.sha256
    expect(same, entry.file, f"sha256 {entry.sha256}", f"{digest}; the file is damaged or was exchanged")


def _looks_like_bundle(path: Path) -> bool:
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return isinstance(values, dict) and {"format", "task", "network"} <= values.keys()
    except (OSError, ValueError):
        return False


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
