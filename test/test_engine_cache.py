"""The engines that TensorRT has built are kept: for their user alone, and for what they were built for alone."""

import logging
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import Builder

from fm_pose_core.errors import InputError
from fm_pose_core.runtime.engine_cache import Fingerprint, cache_folder, engines, read_engine, write_engine

KEY = Fingerprint("ab" * 32, 1, "tensorrt_fake", "1.0", "sm_89", "fp16", 16)


def test_an_engine_is_built_once_and_kept_for_its_user_alone(tmp_path: Path) -> None:
    build, folder = Builder(), tmp_path / "cache" / "engines"
    assert next(engines(KEY, build, folder)) == next(engines(KEY, build, folder)) == b"engine 1"
    assert build.built == 1
    (file,) = folder.iterdir()
    assert file.name.startswith("sm_89_fp16_") and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"network": "cd" * 32},
        {"conversion": 2},
        {"package": "tensorrt"},
        {"version": "1.1"},
        {"architecture": "sm_86"},
        {"precision": "fp32"},
        {"largest_batch": 4},
        {"machine": "aarch64x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_engine_for_something_else_is_not_taken(change: dict[str, Any], tmp_path: Path) -> None:
    write_engine(tmp_path, KEY, b"engine")
    other = replace(KEY, **change)
    assert read_engine(tmp_path, KEY) == b"engine" and read_engine(tmp_path, other) is None
    (tmp_path / KEY.file_name).rename(tmp_path / other.file_name)  # as if somebody had tried
    with pytest.raises(InputError, match=r"\.engine: expected the fingerprint in its name, got "):
        read_engine(tmp_path, other)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-3],
    "empty": lambda data: b"",
    "one bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another file": lambda data: b"GIF89a" + data,
    "another fingerprint": lambda data: data.replace(b"sm_89", b"sm_86"),
    "another checksum": lambda data: data[:-74] + data[-74:].replace(b"a", b"b").replace(b"0", b"1"),
    "cut in its head": lambda data: data[:30],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_engine_is_built_again_with_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    next(engines(KEY, build, tmp_path))
    file = tmp_path / KEY.file_name
    file.write_bytes(damage(file.read_bytes()))
    told.clear()
    assert next(engines(KEY, build, tmp_path)) == b"engine 2"
    (line,) = (x.getMessage() for x in told.records if x.levelno >= logging.WARNING)
    assert line.startswith(f"{file}: expected ") and line.endswith("; the engine is built again")
    assert next(engines(KEY, build, tmp_path)) == b"engine 2"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_others_may_write_is_not_trusted(what: str, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    build = Builder()
    next(engines(KEY, build, tmp_path))
    (tmp_path if what == "folder" else tmp_path / KEY.file_name).chmod(0o777)
    assert next(engines(KEY, build, tmp_path)) == b"engine 2"
    assert "expected one that only its owner may write" in told.text
    assert ("used, but not kept" in told.text) == (what == "folder")


def test_an_engine_that_cannot_be_kept_is_used(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    assert next(engines(KEY, Builder(), tmp_path / "file" / "engines")) == b"engine 1"
    assert "the engine is used, but not kept" in told.text


def test_the_cache_is_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/fm_pose/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard wants such to be ignored
    assert cache_folder() == Path.home() / ".cache/fm_pose/engines"
