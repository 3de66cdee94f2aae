"""Engines that TensorRT has built, kept in a folder of the user, so that each is built only once.

An engine is code for one GPU, and nothing checks what it does. So it is loaded only from a file that belongs to this
user alone, and only if the file says that it was built from this network, by this TensorRT, for this GPU.
"""

import hashlib
import json
import logging
import os
import platform
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically

log = logging.getLogger(__name__)

FORMAT = b"fm_pose engine 1\n"
LONGEST = 10_000  # bytes of the line that describes the engine
OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Fingerprint:
    """All that an engine depends on. network: SHA-256 of the ONNX file. conversion: number of what is made of it for
    TensorRT. package, version: of TensorRT. architecture: of the GPU, such as "sm_89". precision: fp16 or fp32.
    largest_batch: windows at a time. machine: such as "x86_64"."""

    network: str
    conversion: int
    package: str
    version: str
    architecture: str
    precision: str
    largest_batch: int
    machine: str = platform.machine()

    @property
    def file_name(self) -> str:
        """Different for different fingerprints."""
        digest = hashlib.sha256(self.line()).hexdigest()[:16]
        return f"{self.architecture}_{self.precision}_{digest}.engine"

    def line(self) -> bytes:
        """As it stands in the file."""
        return json.dumps(asdict(self), sort_keys=True).encode() + b"\n"


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/fm_pose/engines, or that in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path(os.path.expanduser("~/.cache"))) / "fm_pose" / "engines"


def write_engine(folder: Path, fingerprint: Fingerprint, engine: bytes) -> Path:
    """The file of an engine, whole or not at all, which only this user may read or write. Raises InputError if others
    may write into the folder, and OSError if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _expect_own(folder)
    path = folder / fingerprint.file_name
    digest = hashlib.sha256(engine).hexdigest().encode() + b"\n"
    write_atomically(path, FORMAT + fingerprint.line() + digest + engine, mode=0o600)
    return path


def read_engine(folder: Path, fingerprint: Fingerprint) -> bytes | None:
    """The engine with this fingerprint, or None if there is none. Raises InputError if its file is damaged, was made
    for something else, or may be written by others."""
    path = folder / fingerprint.file_name
    if not path.is_file():
        return None
    _expect_own(folder)
    _expect_own(path)
    with path.open("rb") as file:
        expect(file.read(len(FORMAT)) == FORMAT, str(path), "an engine of this package", "another file")
        described = file.readline(LONGEST)
        expect(described == fingerprint.line(), str(path), "the fingerprint in its name", described[:300])
        digest, engine = file.readline(LONGEST).strip().decode(errors="replace"), file.read()
    whole = hashlib.sha256(engine).hexdigest() == digest
    expect(whole, str(path), f"an engine with sha256 {digest[:64]}", "another: the file is damaged")
    return engine


def engines(fingerprint: Fingerprint, build: Callable[[], bytes], folder: Path | None = None) -> Iterator[bytes]:
    """The engine that is kept, if there is a good one. Whoever asks for another, because that one did not serve, gets
    one built anew, which is kept in its place. What is wrong with a file is logged."""
    folder = folder or cache_folder()
    try:
        if kept := read_engine(folder, fingerprint):
            log.info("taking the engine %s", folder / fingerprint.file_name)
            yield kept
            log.warning("%s: it cannot be used here; it is built again", folder / fingerprint.file_name)
        else:
            log.info("no engine %s yet; it is built now, which takes seconds to minutes", fingerprint.file_name)
    except (InputError, OSError) as error:
        log.warning("%s; the engine is built again", error)
    engine = build()
    try:
        log.info("kept as %s", write_engine(folder, fingerprint, engine))
    except (InputError, OSError) as error:
        log.warning("%s; the engine is used, but not kept", error)
    yield engine


def _expect_own(path: Path) -> None:
    """Whoever could write there could make this process do what he likes."""
    status = path.stat()
    expect(status.st_uid == os.geteuid(), str(path), "a file or folder of the user who runs this", "another owner")
    private = f"one that only its owner may write (chmod go-w {path})"
    expect(not status.st_mode & OF_OTHERS, str(path), private, stat.filemode(status.st_mode))
