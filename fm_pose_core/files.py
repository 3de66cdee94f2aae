"""Files: written whole or not at all, and read with errors that name them."""

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import InputError, expect


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from a PNG, JPEG, TIFF, BMP or WebP. Raises InputError if the file is none."""
    from fm_pose_core.pictures import UPRIGHT

    return np.ascontiguousarray(_decoded(path, UPRIGHT)[..., ::-1])


def read_stored(path: Path) -> NDArray[Any]:
    """The numbers of an image file as they are stored, (H, W) or (H, W, C). Raises InputError if it is none."""
    from fm_pose_core.pictures import AS_STORED

    return _decoded(path, AS_STORED)


def _decoded(path: Path, flags: int) -> NDArray[Any]:
    """From bytes: OpenCV's own reader cannot open every name."""
    from fm_pose_core.pictures import KINDS, decode

    expect(Path(path).is_file(), str(path), "an image file", "nothing there")
    return decode(Path(path).read_bytes(), str(path), flags, kinds=KINDS)


def parse_ids(text: str) -> set[int]:
    """Frame numbers from a text such as "3-300,474" (ranges include both ends), or from a text file with such entries,
    separated by commas or white space, with # comments. Raises InputError."""
    source, entries = _entries(text, r"[\d\s,-]+")
    return {i for entry in entries for i in _range(source, entry, entry)}


@dataclass(frozen=True)
class Frames:
    """Images of a dataset in scenes, as a user names them: "3-248,474" where they have one scene, "2/3-248,5/*" where
    they have several (scene 5 whole).

    entries: the text of each entry, its scene or None, and its image ids or None for all."""

    entries: tuple[tuple[str, int | None, range | None], ...]

    @classmethod
    def parse(cls, text: str) -> "Frames":
        """From such a text, or from a text file with such entries, separated by commas or white space, with # comments.
        Raises InputError."""
        source, texts = _entries(text, r"[\d\s,/*-]+")
        entries = []
        for entry in texts:
            match = re.fullmatch(r"(?:(\d{1,6})/)?(\*|[\d-]+)", entry)
            scene, ids = match.groups() if match else (None, "")
            expect(ids != "*" or scene is not None, source, "all images of a scene as 5/*", repr(entry))
            chosen = None if ids == "*" else _range(source, entry, ids)
            entries.append((entry, None if scene is None else int(scene), chosen))
        return cls(tuple(entries))

    def of(self, images: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the images (scene_id, im_id) that are named. Raises InputError that names an entry without a scene
        where the images are of several, or one with another scene than theirs."""
        images = set(images)
        scenes = sorted({scene for scene, _ in images})
        these = f"in a split with scenes {', '.join(map(str, scenes))}"
        for entry, scene, _ in self.entries:
            expected = f"SCENE/IDS such as {scenes[0] if scenes else 1}/3-248 {these}"
            expect(scene is not None or len(scenes) < 2, "frames", expected, repr(entry))
            expect(scene is None or scene in scenes, "frames", expected, repr(entry))
        return {
            (s, i)
            for s, i in images
            if any(scene in (None, s) and (ids is None or i in ids) for _, scene, ids in self.entries)
        }


def _entries(text: str, plain: str) -> tuple[str, list[str]]:
    """What to call the source in an error, and its entries: of the text itself if it matches `plain`, or of the file
    that it names."""
    source = "frames"
    if not re.fullmatch(plain, text):
        expect(Path(text).is_file(), source, 'ranges like "3-300,474" or a text file with them', repr(text))
        source = text
        text = re.sub(r"#.*", "", Path(text).read_text(encoding="utf-8", errors="replace"))
    return source, re.split(r"[\s,]+", text.strip(" ,\n\t"))


def _range(source: str, entry: str, ids: str) -> range:
    """The numbers of "474" or "3-300". entry: of which it is a part."""
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", ids)  # six digits, as in the names of the image files
    if match is None:
        raise InputError(f"{source}: expected image ids and ranges like 3-300,474, got {entry[:40]!r}")
    low, high = int(match[1]), int(match[2] or match[1])
    expect(low <= high, source, "ranges from low to high", repr(entry))
    return range(low, high + 1)


def write_atomically(path: str | Path, content: bytes, mode: int = 0o644) -> None:
    """Write a whole file or nothing: a temporary file beside it, then a rename. What a link points to is written.
    What is no file, such as /dev/stdout, is written to. mode: rights. Raises InputError for a folder."""
    path = Path(path)
    expect(not path.is_dir(), str(path), "a file to write", "a folder")
    if path.is_relative_to("/dev") or path.is_relative_to("/proc") or (path.exists() and not path.is_file()):
        with path.open("ab") as file:
            file.write(content)
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def expanded(path: str) -> Path:
    """A path with its environment variables put in. Raises InputError if one is not set."""
    result = os.path.expandvars(os.path.expanduser(path))
    expect("$" not in result, path, "environment variables that are set (export NAME=…)", result)
    return Path(result)
