"""Encoded pictures, from bytes that anybody may have made. The kind, and of PNG and JPEG the claimed size, are known
before OpenCV decodes: a few bytes may claim gigabytes, and some of its decoders crash on a cut file."""

import struct
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import InputError, expect

KINDS = PNG, JPEG, TIFF, BMP, WEBP = "PNG", "JPEG", "TIFF", "BMP", "WebP"
BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": PNG,
    b"\xff\xd8\xff": JPEG,
    b"II*\0": TIFF,
    b"MM\0*": TIFF,
    b"BM": BMP,
    b"RIFF": WEBP,
}
LARGEST = 100_000_000  # pixels
COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # as the camera saw it, whatever a tag in the file says
UPRIGHT = cv2.IMREAD_COLOR  # turned as the tag says
AS_STORED = cv2.IMREAD_UNCHANGED
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG that begin a frame
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length


def decode(
    data: bytes,
    where: str,
    flags: int = COLOUR,
    *,
    kinds: Sequence[str] = (PNG, JPEG),
    size: tuple[int, int] | None = None,
) -> NDArray[np.generic]:
    """A picture as OpenCV decodes it with `flags`: BGR (H, W, 3) uint8 for COLOUR.

    where: for errors. size: the (width, height) that it must have, if that is known. Raises InputError for another kind
    than `kinds`, another size or more than LARGEST pixels, and for what cannot be decoded.
    """
    found = next((kind for beginning, kind in BEGINNINGS.items() if data.startswith(beginning)), None)
    begins = f"{len(data)} bytes that begin with {data[:4].hex() or 'nothing'}"
    expect(found in kinds, where, f"a picture ({', '.join(kinds)})", begins)
    if found in (PNG, JPEG):
        width, height = _png_size(data, where) if found == PNG else _jpeg_size(data, where)
        if size is not None:
            expect((width, height) == size, where, f"{size[0]}x{size[1]} pixels", f"{width}x{height}")
        expect(0 < width * height <= LARGEST, where, f"at most {LARGEST} pixels", f"{width}x{height}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{where}: expected a {found} that OpenCV decodes, got {error.err}") from None
    expect(image is not None, where, f"a {found} that OpenCV decodes", f"{len(data)} bytes that it does not")
    return image


def _png_size(data: bytes, where: str) -> tuple[int, int]:
    """From the header. All parts must be as long as they claim: OpenCV takes memory for them before it reads."""
    expect(data[8:16] == b"\0\0\0\rIHDR", where, "a PNG with a header", f"{len(data)} bytes without one")
    at, kind = 8, b""
    while kind != b"IEND" and at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\xff"))
        at += 12 + length
    expect(at <= len(data), where, "a whole PNG", f"{len(data)} bytes, of which it claims {at}")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _jpeg_size(data: bytes, where: str) -> tuple[int, int]:
    """From the first frame's header."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # a fill byte, or a marker without a length
            at += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            (length,) = struct.unpack(">H", data[at + 2 : at + 4])
            if length < 2:
                break
            at += 2 + length
    raise InputError(f"{where}: expected a JPEG with a frame, got {len(data)} bytes without one")
