import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bundle as toy

from fm_pose_core.bundle import Bundle, write_bundle
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import box_corners
from fm_pose_core.objects.crop import Crop


def write(path: Path, **changes: Any) -> Bundle:
    values: dict[str, Any] = {
        "network": b"network",
        "architecture": {"name": "toy", "widths": [1, 2]},
        "name": "thing",
        "object_id": 7,
        "minimum": np.array([-0.1, -0.05, 0.0]),
        "maximum": np.array([0.1, 0.05, 0.3]),
        "diameter": 0.35,
        "symmetries": [np.diag([-1.0, -1.0, 1.0, 1.0])],
        "crop": Crop(96, 250.0),
        "mesh": b"ply",
        "spread_scale": 1.5,
        "training": {"seed": 3},
    }
    return write_bundle(path, **(values | changes))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a" / "thing")
    bundle = Bundle.load(str(tmp_path / "a" / "thing"))
    assert (bundle.name, bundle.object_id, bundle.diameter, bundle.crop) == ("thing", 7, 0.35, Crop(96, 250.0))
    np.testing.assert_array_equal(
        bundle.box_corners, box_corners(np.array([-0.1, -0.05, 0.0]), np.array([0.1, 0.05, 0.3]))
    )
    np.testing.assert_allclose(bundle.dimensions, [0.2, 0.1, 0.3])
    np.testing.assert_allclose(bundle.center, [0, 0, 0.15])
    np.testing.assert_array_equal(bundle.symmetries[0], np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert bundle.network_path.read_bytes() == b"network"
    assert bundle.mesh_path is not None and bundle.mesh_path.read_bytes() == b"ply"
    assert bundle.manifest.calibration.spread_scale == 1.5
    assert bundle.manifest.network.architecture == {"name": "toy", "widths": [1, 2]}
    assert bundle.manifest.training == {"seed": 3}


def test_contents_may_be_files_and_the_mesh_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(b"from a file")
    bundle = write(tmp_path / "thing", network=tmp_path / "n.onnx", mesh=None)
    assert bundle.network_path.read_bytes() == b"from a file"
    assert bundle.mesh_path is None
    assert sorted(f.name for f in bundle.path.iterdir()) == ["manifest.json", "network.onnx"]


def set_key(*keys: str | int, value: Any) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


def delete(*keys: str) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("format", value=2), "format: expected 1, the version this package reads, got 2"),
        (delete("format"), "format: expected 1"),
        (set_key("task", value="foot_pose"), "task: expected 'object_pose' or 'hand_pose', got 'foot_pose'"),
        (set_key("task", value="hand_pose"), "object: expected none, got one for hand_pose"),
        (set_key("extra", value=1), "extra: expected one of the keys"),
        (set_key("object", "colour", value="red"), r"object\.colour: expected one of the keys"),
        (delete("object", "diameter"), r"object\.diameter: expected a value, got none"),
        (delete("calibration"), "calibration: expected a value"),
        (set_key("object", "id", value="7"), r"object\.id: expected int"),
        (set_key("object", "name", value=""), r"object\.name: expected a name"),
        (set_key("object", "minimum", value=[0, 0]), r"object\.minimum: expected 3 values"),
        (set_key("object", "minimum", value=[0.2, -1, -1]), "object: expected minimum below maximum"),
        (set_key("object", "minimum", value=[float("nan"), -1, -1]), "object: expected minimum below maximum"),
        (set_key("object", "diameter", value=350.0), r"object\.diameter: expected between"),
        (
            set_key("object", "symmetries", value=[[1.0] * 16]),
            r"object\.symmetries\[0\]: expected 16 numbers of a rigid",
        ),
        (set_key("object", "symmetries", value=[[1.0] * 12]), r"object\.symmetries\[0\]: expected 16 numbers"),
        (set_key("crop", "size", value=0), r"crop\.size: expected 8 to 4096"),
        (set_key("crop", "focal", value=-1.0), r"crop\.focal: expected a positive number"),
        (
            set_key("calibration", "spread_scale", value=float("inf")),
            r"calibration\.spread_scale: expected a positive number",
        ),
        (set_key("network", "file", value="../network.onnx"), "file: expected a file name without folders"),
        (set_key("network", "file", value="/etc/hostname"), "file: expected a file name without folders"),
        (set_key("network", "file", value="other.onnx"), "other.onnx: expected a file in the bundle"),
        (set_key("network", "sha256", value="00"), "network.onnx: expected sha256 00"),
    ],
)
def test_a_bad_manifest_is_refused_by_name(tmp_path: Path, change: Callable[[dict], None], message: str) -> None:
    file = write(tmp_path / "thing").path / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
        Bundle.load(tmp_path / "thing")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "thing").path
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"manifest\.json: .*expected"):
        Bundle.load(folder)


@pytest.mark.parametrize("file", ["network.onnx", "mesh.ply"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path / "thing").path
    (folder / file).write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{file}: expected sha256"):
        Bundle.load(folder)
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file}: expected a file in the bundle"):
        Bundle.load(folder)


def test_missing_folder_and_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Bundle.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"expected a bundle with manifest\.json"):
        Bundle.load(tmp_path)


def test_an_older_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "thing")
    (tmp_path / "thing" / "left_over.txt").write_text("x")
    write(tmp_path / "thing", network=b"newer", mesh=None)
    assert sorted(f.name for f in (tmp_path / "thing").iterdir()) == ["manifest.json", "network.onnx"]
    assert [f.name for f in tmp_path.iterdir()] == ["thing"]


def test_what_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(InputError, match="something else; it is left alone"):
        write(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="left alone"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert write(tmp_path / "empty").name == "thing"


def test_a_refused_bundle_leaves_no_trace_and_the_older_one(tmp_path: Path) -> None:
    write(tmp_path / "thing")
    for bad in ({"diameter": 350.0}, {"network": tmp_path / "missing.onnx"}, {"training": {"when": object()}}):
        with pytest.raises((InputError, FileNotFoundError, TypeError)):
            write(tmp_path / "thing", network=b"newer") if not bad else write(tmp_path / "thing", **bad)
    assert Bundle.load(tmp_path / "thing").network_path.read_bytes() == b"network"
    assert [f.name for f in tmp_path.iterdir()] == ["thing"]


def test_toy_bundle_can_be_moved(toy_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_bundle, tmp_path / "moved")
    assert Bundle.load(tmp_path / "moved").crop == toy.CROP
