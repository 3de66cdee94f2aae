"""Files: written whole or not at all, and read with errors that name them."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import InputError, expect


def read_json(path: Path) -> Any:
    expect(path.is_file(), str(path), "a JSON file", "nothing there")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: expected JSON, got {error}") from None


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB. Raises InputError if the file is no image."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    expect(image is not None, str(path), "an image file", "something that OpenCV cannot read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def parse_ids(text: str) -> set[int]:
    """Image ids from a text such as "3-300,474" (ranges include both ends), or from a text file with such entries,
    separated by commas or white space, with # comments. Raises InputError."""
    source = "frames"
    if not re.fullmatch(r"[\d\s,-]+", text):
        expect(Path(text).is_file(), source, 'ranges like "3-300,474" or a text file with them', repr(text))
        source = text
        text = re.sub(r"#.*", "", Path(text).read_text(encoding="utf-8", errors="replace"))
    ids: set[int] = set()
    for entry in re.split(r"[\s,]+", text.strip(" ,\n\t")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", entry)  # six digits, as in the names of the image files
        expect(match is not None, source, "image ids and ranges like 3-300,474", repr(entry[:40]))
        low, high = int(match[1]), int(match[2] or match[1])  # type: ignore[index]
        expect(low <= high, source, "ranges from low to high", repr(entry))
        ids.update(range(low, high + 1))
    return ids


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a whole file or nothing: a temporary file beside it, then a rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def expanded(path: str) -> Path:
    """A path with its environment variables put in. Raises InputError if one is not set."""
    result = os.path.expandvars(os.path.expanduser(path))
    expect("$" not in result, path, "environment variables that are set (export NAME=…)", result)
    return Path(result)
