"""Pictures from anybody: kind and size are known before they are decoded, and damage is one clear error."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from fm_pose_core.errors import InputError
from fm_pose_core.files import read_image
from fm_pose_core.pictures import AS_STORED, JPEG, PNG, TIFF, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encoded(suffix: str, pixels: np.ndarray = PIXELS) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


JPEG_2000 = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)  # OpenCV's decoder crashes on a cut one


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_png_and_jpeg_of_the_known_size() -> None:
    np.testing.assert_array_equal(decode(encoded(".png"), "x", size=(40, 24)), PIXELS)
    grey = np.full((24, 40, 3), 99, np.uint8)
    np.testing.assert_allclose(decode(encoded(".jpg", grey), "x", size=(40, 24)), grey, atol=1)
    deep = np.arange(960, dtype=np.uint16).reshape(24, 40)
    np.testing.assert_array_equal(decode(encoded(".png", deep), "x", AS_STORED, kinds=(PNG,)), deep)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_another_size_is_refused_before_it_is_decoded(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="x: expected 40x25 pixels, got 40x24"):
        decode(encoded(suffix), "x", size=(40, 25))


def test_a_claim_of_gigabytes_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="x: expected at most 100000000 pixels, got 60000x60000"):
        decode(claiming(60_000, 60_000), "x")


def test_a_part_that_claims_gigabytes_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV would take memory for it, seconds long."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    whole = bytearray(encoded(".png"))
    at = whole.index(b"IDAT") - 4
    whole[at] = 0xEE
    with pytest.raises(InputError, match=r"x: expected a whole PNG, got \d+ bytes, of which it claims 399"):
        decode(bytes(whole), "x")


def test_bytes_behind_a_png_do_not_count() -> None:
    np.testing.assert_array_equal(decode(encoded(".png") + b"more", "x"), PIXELS)


@pytest.mark.parametrize("data", [JPEG_2000, encoded(".webp"), encoded(".tiff"), encoded(".bmp"), b""])
def test_other_kinds_are_refused_unless_asked_for(data: bytes) -> None:
    with pytest.raises(InputError, match=r"x: expected a picture \(PNG, JPEG\), got \d+ bytes that begin with"):
        decode(data, "x")


def test_kinds_that_are_asked_for() -> None:
    np.testing.assert_array_equal(decode(encoded(".tiff"), "x", kinds=(JPEG, TIFF)), PIXELS)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_cut_and_changed_pictures_are_decoded_or_refused(suffix: str) -> None:
    """Each prefix, and random bytes changed: a picture of its size, or InputError; nothing else."""
    data, rng = encoded(suffix), np.random.default_rng(1)
    cases = [data[:n] for n in range(0, len(data), 7)]
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), int(rng.integers(1, 8))):
            changed[at] = int(rng.integers(256))
        cases.append(bytes(changed))
    refused = 0
    for case in cases:
        try:
            assert decode(case, "x", size=(40, 24)).shape == (24, 40, 3)
        except InputError as error:
            refused += 1
            assert str(error).startswith("x: expected")
    assert refused > 10


def test_a_jpeg_whose_segments_never_end_is_refused() -> None:
    for body in (b"\xff\xe0\0\0" * 1000, b"\xff" * 5000, b"\xff\xd0" * 3000, b"\xff\xe0\xff\xff"):
        with pytest.raises(InputError, match="a JPEG with a frame"):
            decode(b"\xff\xd8" + body, "x")


def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    path.write_bytes(encoded(".png"))
    np.testing.assert_array_equal(read_image(path), PIXELS[..., ::-1])
