"""Downloads BOP datasets from the BOP hub (https://huggingface.co/bop-benchmark), or takes them from a mirror: a folder
that holds the same archives (lmo_base.zip, lmo_models.zip, lmo_test_bop19.zip, …)."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically

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


def download_bop(
    name: str,
    output: str | Path,
    parts: Sequence[str] = DEFAULT_PARTS,
    mirror: str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Path:
    """Fetch and unpack parts of the BOP dataset `name` into `output`/`name`, whose path is returned.

    mirror: folder, or its file:// address, that holds NAME_PART.zip, itself or in NAME/; without it, the hub that
    HF_ENDPOINT names. checksums: expected SHA-256 by archive name; an archive that is not listed is checked by the CRCs
    that ZIP holds. A part that was unpacked before is skipped. Files appear only after a whole archive is unpacked.
    Raises InputError for an unknown name or part, a hub that cannot be reached, a missing huggingface_hub, or a damaged
    or unsafe archive.
    """
    known = name in NAMES or (mirror is not None and re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None)
    expect(known, "dataset", f"one of {', '.join(NAMES)} (any other with a mirror)", repr(name))
    for part in parts:
        plain = re.fullmatch(r"[A-Za-z0-9_-]+", part) is not None
        expect(plain, "part", "a name like base, models, test_bop19, test_all or train_pbr", repr(part))
    folder = Path(output) / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if part not in _done(folder):
            archive = f"{name}_{part}.zip"
            digest = _get(archive, folder, mirror, (checksums or {}).get(archive))
            write_atomically(folder / DONE, (json.dumps({**_done(folder), part: digest}, indent=1) + "\n").encode())
    return folder


def _get(archive: str, folder: Path, mirror: str | None, checksum: str | None) -> str:
    """Fetch one archive and unpack it into `folder`; its SHA-256. A damaged download is deleted, another that could not
    be unpacked is kept for the next call."""
    downloads = folder.parent / f".{folder.name}.download"
    path = _download(folder.name, archive, downloads) if mirror is None else _find(mirror, folder.name, archive)
    digest = _sha256(path)
    expected, got = f"SHA-256 {checksum}", digest
    if checksum is None or digest == checksum.lower():
        try:
            unpack(path, folder)
            shutil.rmtree(downloads, ignore_errors=True)
            return digest
        except InputError:
            raise
        except RuntimeError as error:  # encrypted, or packed in another way
            raise InputError(f"{archive}: expected a ZIP archive that Python unpacks, got {error}") from None
        except Exception as error:  # the library hands on what each of its decoders says of damaged bytes
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is for a place before the file
                raise
            expected, got = "a whole ZIP archive", f"{type(error).__name__}: {error}"
    shutil.rmtree(downloads, ignore_errors=True)
    raise InputError(f"{archive}: expected {expected}, got {got}; a damaged download is deleted, try again")


def read_checksums(path: str | Path) -> dict[str, str]:
    """SHA-256 by archive name from a file in the format of `sha256sum`. Raises InputError."""
    path = Path(path)
    expect(path.is_file(), str(path), "a file as sha256sum writes it", "nothing there")
    result = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64})\s+\*?(.+)", line.strip())
        expect(match is not None or not line.strip(), str(path), "lines of SHA-256 and file name", repr(line[:80]))
        if match:
            result[PurePosixPath(match[2]).name] = match[1].lower()
    return result


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP archive into `folder`; nothing appears there unless all of it could be unpacked. A leading folder
    with the name of `folder`, as in BOP's base archives, is left out.

    Raises what `zipfile` does for a damaged archive and InputError for one whose members would lie outside of `folder`,
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
        _expect_files(archive.name, [path for _, path in members])
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack.") as temporary:
            for info, relative in members:
                target = Path(temporary) / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(info) as source, target.open("xb") as sink:  # reading checks the CRC
                    shutil.copyfileobj(source, sink, CHUNK)
            for _, relative in members:
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / relative, folder / relative)


def _expect_files(archive: str, paths: Sequence[Path]) -> None:
    """Raise InputError unless they can all be files: each once, none a folder of another, no name too long."""
    folders = {folder for path in paths for folder in path.parents}
    seen: set[Path] = set()
    for path in paths:
        plain = path not in seen and path not in folders and all(len(os.fsencode(x)) < 256 for x in path.parts)
        wanted = "a file of its own with a name of up to 255 bytes"
        expect(plain, f"{archive}, member {str(path)[:80]!r}", wanted, "another")
        seen.add(path)


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


def _find(mirror: str, name: str, archive: str) -> Path:
    """Where a mirror's folder holds `archive`."""
    folder = Path(unquote(urlsplit(mirror).path)) if mirror.startswith("file://") else Path(mirror)
    expect(folder.is_dir(), "mirror", "a folder, or its address that begins with file://", repr(mirror))
    path = next((p for p in (folder / archive, folder / name / archive) if p.is_file()), None)
    if path is None:
        raise InputError(f"{folder}: expected {archive} or {name}/{archive}, got neither")
    return path


def _download(name: str, archive: str, folder: Path) -> Path:
    """Download `archive` from the hub into `folder`. What a broken connection or an earlier command has left is taken
    up where it ends; an archive that is whole and current is not fetched again."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise InputError(
            "download: expected the package huggingface_hub (pip install 'fm-pose[download]'), "
            "or --mirror with a folder that holds the archives, got neither"
        ) from None
    repository = f"bop-benchmark/{name}"
    wanted = f"{archive}: expected it in the dataset {repository} of the hub"
    try:
        return Path(hf_hub_download(repository, archive, repo_type="dataset", local_dir=folder))
    except (RemoteEntryNotFoundError, RepositoryNotFoundError):
        hint = "see https://huggingface.co/bop-benchmark for the parts of each dataset"
        raise InputError(f"{wanted}, got no such file; {hint}") from None
    except Exception as error:  # the library hands on what its HTTP client raises, another one in each major version
        again = "run the command again to go on from there"
        raise InputError(f"{wanted}, got {error.__cause__ or error}; {again}") from None


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
