"""Frames as a user names them, and files that are whole or not there."""

from pathlib import Path

import pytest

from fm_pose_core.document import read_document
from fm_pose_core.errors import InputError
from fm_pose_core.files import Frames, parse_ids, write_atomically

ONE_SCENE = {(7, i) for i in range(500)}
TWO_SCENES = {(scene, i) for scene in (2, 5) for i in range(500)}


def test_frame_numbers(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("# validation block\n3-300\n474, 480\n")
    for text in ("3-300,474,480", " 3-300, 474 480", str(tmp_path / "ids.txt")):
        assert parse_ids(text) == {*range(3, 301), 474, 480}
        assert Frames.parse(text).of(ONE_SCENE) == {(7, i) for i in (*range(3, 301), 474, 480)}


@pytest.mark.parametrize("text", ["a-b", "5-3", "3--4", "-3", ",", "1234567"])
def test_what_is_no_frame_number_is_refused(text: str) -> None:
    for parse in (parse_ids, Frames.parse):
        with pytest.raises(InputError, match=r"frames|ranges"):
            parse(text)


@pytest.mark.parametrize("text", ["2/", "/3", "*", "2/3/4", "2/5-3", "x/3", "2/3-", "2*"])
def test_what_is_no_frame_of_a_scene_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="frames: expected"):
        Frames.parse(text)


def test_frames_of_scenes(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("2/3-5  # the block of scene 2\n5/*\n")
    for text in ("2/3-5,5/*", "2/3,2/4-5 5/*", str(tmp_path / "ids.txt")):
        assert Frames.parse(text).of(TWO_SCENES) == {(2, 3), (2, 4), (2, 5), *((5, i) for i in range(500))}
    assert Frames.parse("7/3").of(ONE_SCENE) == {(7, 3)}
    assert Frames.parse("2/498-600").of(TWO_SCENES) == {(2, 498), (2, 499)}
    assert Frames.parse("3").of([]) == set()


def test_an_id_without_its_scene_is_refused_where_there_are_several() -> None:
    with pytest.raises(InputError, match=r"frames: expected SCENE/IDS such as 2/3-248 .* scenes 2, 5, got '3-4'"):
        Frames.parse("2/3,3-4").of(TWO_SCENES)
    with pytest.raises(InputError, match=r"in a split with scenes 2, 5, got '7/3'"):
        Frames.parse("2/3,7/3").of(TWO_SCENES)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    write_atomically(path, b"[1]")
    assert read_document(path).value == [1]

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"[2]")
    assert read_document(path).value == [1] and list(path.parent.iterdir()) == [path]


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: expected JSON"):
        read_document(tmp_path / "a.json")
