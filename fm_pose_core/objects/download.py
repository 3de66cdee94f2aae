"""Downloads BOP datasets from the BOP hub (https://huggingface.co/bop-benchmark), or from a mirror: a folder or a web
server that holds the same archives (lmo_base.zip, lmo_models.zip, lmo_test_bop19.zip, …)."""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from fm_pose_core import progress
from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically

HUB = "https://huggingface.co/datasets/bop-benchmark/{name}/resolve/main"
NAMES = (
    "lm",
    "lmo",
    "tless",
    "tudl",
    "icbin",
    "itodd",
    "hb",
    "ycbv",
    "ruapc",
    "icmi",
    "hope",
    "hopev2",
    "handal",
    "hot3d",
    "ipd",
    "xyzibd",
    "itoddmv",
)
DEFAULT_PARTS = ("base", "models", "test_bop19")
DONE = ".downloaded.json"  # inside the dataset's folder: part -> SHA-256 of its archive
CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


def download_bop(
    name: str,
    output: str | Path,
    parts: Sequence[str] = DEFAULT_PARTS,
    mirror: str | None = None,
    checksums: Mapping[str, str] | None = None,
    show_progress: bool = True,
) -> Path:
    """Fetch and unpack parts of the BOP dataset `name` into `output`/`name`, whose path is returned.

    mirror: folder, file:// or http(s):// address that holds NAME_PART.zip (a folder may hold them in NAME/). checksums:
    expected SHA-256 by archive name; an archive that is not listed is checked by the CRCs that ZIP holds. A part that
    was unpacked before is skipped; a broken download goes on where it stopped. Files appear only after a whole archive
    is unpacked. Raises InputError for an unknown name or part, a failing server, or a damaged or unsafe archive.
    """
    known = name in NAMES or (mirror is not None and re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None)
    expect(known, "dataset", f"one of {', '.join(NAMES)} (any other with a mirror)", repr(name))
    for part in parts:
        plain = re.fullmatch(r"[A-Za-z0-9_-]+", part) is not None
        expect(plain, "part", "a name like base, models, test_bop19, test_all or train_pbr", repr(part))
    folder = Path(output) / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if part in _done(folder):
            continue
        archive = f"{name}_{part}.zip"
        path = folder.parent / f".{archive}.part"
        _fetch(mirror or HUB.format(name=name), name, archive, path, show_progress)
        digest = _sha256(path)
        expected = (checksums or {}).get(archive, digest).lower()
        if digest != expected:
            _discard(path)
            raise InputError(
                f"{archive}: expected SHA-256 {expected}, got {digest}; the damaged download is deleted, try again"
            )
        try:
            unpack(path, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            _discard(path)
            raise InputError(
                f"{archive}: expected a whole ZIP archive, got {error}; the damaged download is deleted, try again"
            ) from None
        write_atomically(folder / DONE, (json.dumps({**_done(folder), part: digest}, indent=1) + "\n").encode())
        _discard(path)
    return folder


def read_checksums(path: str | Path) -> dict[str, str]:
    """SHA-256 by archive name from a file in the format of `sha256sum`. Raises InputError."""
    path = Path(path)
    expect(path.is_file(), str(path), "a file as sha256sum writes it", "nothing there")
    result = {}
    for line in path.read_text().splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64})\s+\*?(.+)", line.strip())
        expect(match is not None or not line.strip(), str(path), "lines of SHA-256 and file name", repr(line[:80]))
        if match:
            result[PurePosixPath(match[2]).name] = match[1].lower()
    return result


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP archive into `folder`; nothing appears there unless all of it could be unpacked. A leading folder
    with the name of `folder`, as in BOP's base archives, is left out.

    Raises zipfile.BadZipFile for a damaged archive and InputError for one whose members would lie outside of `folder`,
    are links, or don't fit on the disk; neither writes to `folder`.
    """
    with zipfile.ZipFile(archive) as content:
        members = [(info, _safe_path(info, folder.name)) for info in content.infolist() if not info.is_dir()]
        needed, free = sum(info.file_size for info, _ in members), shutil.disk_usage(folder).free
        expect(
            needed < free,
            archive.name,
            f"at most {free / 1e9:.1f} GB of content (the free disk space)",
            f"{needed / 1e9:.1f} GB",
        )
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack.") as temporary:
            for info, relative in members:
                target = Path(temporary) / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(info) as source, target.open("xb") as sink:  # reading checks the CRC
                    shutil.copyfileobj(source, sink, CHUNK)
            for _, relative in members:
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / relative, folder / relative)


def _safe_path(info: zipfile.ZipInfo, root: str) -> Path:
    path = PurePosixPath(info.filename)
    plain = (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in info.filename
        and ":" not in path.parts[0]
    )
    expect(plain, f"archive member {info.filename!r}", "a path inside the dataset", "one that leads out of it")
    kind = stat.S_IFMT(info.external_attr >> 16)
    expect(kind in (0, stat.S_IFREG), f"archive member {info.filename!r}", "a file", "a link or a device")
    parts = path.parts[1:] if path.parts[0] == root and len(path.parts) > 1 else path.parts
    return Path(*parts)


def _fetch(source: str, name: str, archive: str, path: Path, show_progress: bool) -> None:
    """Copy or download `archive` to `path`; what `path` already holds of a download is kept."""
    if re.match(r"https?://", source):
        _download(f"{source.rstrip('/')}/{archive}", path, archive, show_progress)
        return
    folder = Path(unquote(urlsplit(source).path)) if source.startswith("file://") else Path(source)
    expect(
        folder.is_dir(), "mirror", "a folder or an address that begins with http://, https:// or file://", repr(source)
    )
    local = next((p for p in (folder / archive, folder / name / archive) if p.is_file()), None)
    expect(local is not None, str(folder), f"{archive} or {name}/{archive}", "neither")
    shutil.copyfile(local, path)  # type: ignore[arg-type]


def _download(url: str, path: Path, label: str, show_progress: bool) -> None:
    """Resumable: asks for the rest of the file where `path` ends. A server that changed the file since (another ETag),
    or that can't send parts, is read from the start."""
    tag_path = _tag_path(path)
    start = path.stat().st_size if path.is_file() and tag_path.is_file() else 0
    headers = {"User-Agent": "fm-pose", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag_path.read_text()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            start = start if response.headers.get("Content-Range", "").startswith(f"bytes {start}-") else 0
            tag = response.headers.get("ETag", "")
            tag_path.unlink(missing_ok=True)
            if tag and not tag.startswith("W/"):
                write_atomically(tag_path, tag.encode())
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else 0
            with path.open("ab" if start else "wb") as file:
                done = start + _copy(response, file, total, start, label, show_progress)
        if total and done != total:
            raise InputError(f"{url}: expected {total} bytes, got {done}; run the command again to go on from there")
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # the whole file was already there, or it shrank: unpacking tells
            return
        hint = (
            "; see https://huggingface.co/bop-benchmark for the parts of each dataset"
            if error.code in (401, 404)
            else ""
        )
        raise InputError(f"{url}: expected a file, got HTTP {error.code} {error.reason}{hint}") from None
    except (OSError, HTTPException) as error:
        raise InputError(
            f"{url}: expected a file, got {getattr(error, 'reason', error)}; run the command again to go on"
        ) from None


def _tag_path(path: Path) -> Path:
    return path.with_suffix(".etag")


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)
    _tag_path(path).unlink(missing_ok=True)


def _copy(source: Any, sink: IO[bytes], total: int, start: int, label: str, show_progress: bool) -> int:
    if not show_progress:
        before = sink.tell()
        shutil.copyfileobj(source, sink, CHUNK)
        return sink.tell() - before
    copied = 0
    with progress.bar(total, label, "B", initial=start) as bar:
        while block := source.read(CHUNK):
            sink.write(block)
            copied += len(block)
            bar.update(len(block))
    return copied


def _done(folder: Path) -> dict[str, str]:
    try:
        parts: dict[str, str] = json.loads((folder / DONE).read_text())
        return parts
    except (OSError, ValueError):
        return {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
