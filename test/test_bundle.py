"""Bundles: what is written is read, what cannot be is refused by name, and what format 1 said is still understood."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bundle as toy
from toy_hand import write_toy_hand

from fm_pose_core.bundle import NetworkFile
from fm_pose_core.contract import Contract, Output, hand_contract, object_contract
from fm_pose_core.errors import InputError
from fm_pose_core.files import read_image
from fm_pose_core.geometry import box_corners
from fm_pose_core.hands.bundle import HandBundle
from fm_pose_core.objects.bundle import ObjectBundle, ObjectInBundle, write_object_bundle
from fm_pose_core.objects.crop import Crop
from fm_pose_core.tasks import load_bundle
from fm_pose_core.window_picture import from_picture, to_picture

MODELS = Path(__file__).parents[1] / "models"
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
THING = ObjectInBundle("thing", 7, (-0.1, -0.05, 0.0), (0.1, 0.05, 0.3), 0.35, 250.0, [HALF_TURN], b"ply")
OTHER = ObjectInBundle("other", 3, (-0.02, -0.02, -0.02), (0.02, 0.02, 0.02), 0.06, 480.0, mesh=b"other ply")


def network_file(objects: int = 1, **changes: Any) -> NetworkFile:
    """Of a network for windows of 96 pixels."""
    architecture = {"name": "toy", "widths": [1, 2]}
    return replace(NetworkFile(b"network", architecture, object_contract(96, objects), 1.5, {"seed": 3}), **changes)


def write(path: Path, network: bytes | Path = b"network", training: Any = None, **changes: Any) -> ObjectBundle:
    """The bundle of one thing. changes: of its entry."""
    file = network_file(onnx=network, training=training or {"seed": 3})
    return write_object_bundle(path, file, [replace(THING, **changes)])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a" / "thing")
    bundle = ObjectBundle.load(str(tmp_path / "a" / "thing"))
    (thing,) = bundle.objects
    assert thing == bundle.object() == bundle.object("thing")
    assert (bundle.name, thing.name, thing.object_id, thing.diameter) == ("thing", "thing", 7, 0.35)
    assert (thing.crop, thing.index) == (Crop(96, 250.0), 0)
    np.testing.assert_array_equal(
        thing.box_corners, box_corners(np.array([-0.1, -0.05, 0.0]), np.array([0.1, 0.05, 0.3]))
    )
    np.testing.assert_allclose(thing.dimensions, [0.2, 0.1, 0.3])
    np.testing.assert_allclose(thing.center, [0, 0, 0.15])
    np.testing.assert_array_equal(thing.symmetries[0], HALF_TURN)
    assert bundle.network_path.read_bytes() == b"network"
    assert thing.mesh_path is not None and thing.mesh_path.read_bytes() == b"ply"
    assert bundle.spread_scale == bundle.manifest.calibration.spread_scale == 1.5
    assert bundle.manifest.network.architecture == {"name": "toy", "widths": [1, 2]}
    assert bundle.manifest.training == {"seed": 3}
    assert (bundle.manifest.format, bundle.contract) == (2, object_contract(96))


def test_sample_windows_are_kept_in_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    bundle = write_object_bundle(tmp_path / "thing", network_file(sample=colours), [THING])
    np.testing.assert_array_equal(bundle.sample(), colours)
    np.testing.assert_array_equal(read_image(tmp_path / "thing" / "sample.png"), colours.reshape(-1, 96, 3))
    contract = hand_contract(14, 96)
    depths = rng.uniform(-1, 1, (2, 96, 96, 1)).astype(np.float32)
    again = from_picture(to_picture(depths), "sample.png", contract)
    assert again.dtype == np.float32 and again.shape == depths.shape
    np.testing.assert_allclose(again, depths, atol=2e-5)
    wanted = r"sample\.png: expected a column of windows of 96x96 pixels, 1 x uint16, got uint8 \(288, 96, 3\)"
    with pytest.raises(InputError, match=wanted):
        from_picture(to_picture(colours), "sample.png", contract)
    with pytest.raises(InputError, match="expected a column of windows of 128x128"):
        from_picture(to_picture(colours), "sample.png", object_contract(128))
    (tmp_path / "thing" / "sample.png").write_bytes(to_picture(colours[:2]))
    with pytest.raises(InputError, match=r"sample\.png: expected sha256 .* the file is damaged or was exchanged"):
        ObjectBundle.load(tmp_path / "thing")
    assert write(tmp_path / "other").sample() is None


def test_a_link_is_followed_to_what_has_the_checksum_alone(tmp_path: Path) -> None:
    """`colcon build --symlink-install` makes such folders."""
    bundle = write(tmp_path / "thing")
    elsewhere = tmp_path / "elsewhere"
    bundle.network_path.rename(elsewhere)
    bundle.network_path.symlink_to(elsewhere)
    assert ObjectBundle.load(bundle.path).network_path.read_bytes() == b"network"
    bundle.network_path.unlink()
    for other, got in ((bundle.path / "manifest.json", "damaged or was exchanged"), (Path("/dev/zero"), "no such")):
        bundle.network_path.symlink_to(other)
        with pytest.raises(InputError, match=rf"network\.onnx: .*{got}"):
            ObjectBundle.load(bundle.path)
        bundle.network_path.unlink()


def test_several_objects_keep_their_order_and_their_own(tmp_path: Path) -> None:
    write_object_bundle(tmp_path / "both", network_file(2), [THING, OTHER])
    bundle = load_bundle(tmp_path / "both")
    assert isinstance(bundle, ObjectBundle) and bundle.name == "thing, other"
    assert bundle.contract == object_contract(96, 2)
    assert [x.shape for x in bundle.contract.outputs] == [(2, 8, 2), (2, 8, 2)]
    thing, other = bundle.objects
    assert [(x.name, x.object_id, x.index) for x in (thing, other)] == [("thing", 7, 0), ("other", 3, 1)]
    assert (thing.crop, other.crop) == (Crop(96, 250.0), Crop(96, 480.0))
    assert [x.mesh_path and x.mesh_path.read_bytes() for x in (thing, other)] == [b"ply", b"other ply"]
    assert [len(x.symmetries) for x in (thing, other)] == [1, 0]
    np.testing.assert_allclose(other.box_corners, box_corners(np.full(3, -0.02), np.full(3, 0.02)))
    assert bundle.object("other") == other
    for name, got in (("", "no name"), ("third", "'third'")):
        with pytest.raises(InputError, match=f"object: expected one of thing, other, got {got}"):
            bundle.object(name)


@pytest.mark.parametrize(
    ("network", "objects", "message"),
    [
        (network_file(2), [THING], "objects: expected 2, as the output corners has, got 1"),
        (network_file(1), [THING, OTHER], "objects: expected 1, as the output corners has, got 2"),
        (network_file(0), [], "network.contract.outputs, corners: expected a positive shape"),
        (network_file(1), [], "objects: expected at least one"),
        (network_file(2), [THING, replace(OTHER, name="thing")], "objects: expected a different name each"),
        (network_file(2), [THING, replace(OTHER, id=7)], "objects: expected a different id each"),
        (network_file(2), [THING, replace(OTHER, diameter=6.0)], r"objects\[1\]\.diameter: expected between"),
    ],
)
def test_objects_that_do_not_fit_their_network_are_refused(
    tmp_path: Path, network: NetworkFile, objects: list[ObjectInBundle], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_object_bundle(tmp_path / "bad", network, objects)
    assert not list(tmp_path.iterdir())


CORNERS, SPREAD = object_contract(96).outputs
WANTED = r"outputs: expected corners \((1, )?8, 2\), spread"
SURFACE = object_contract(96, 1, 36).outputs


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (Contract(96, 3, "seances", (CORNERS, SPREAD)), "head: expected corners or surface, got 'seances'"),
        (Contract(96, 1, "corners", (CORNERS, SPREAD)), "channels: expected 3, got 1"),
        (Contract(96, 4, "corners", (CORNERS, SPREAD)), "channels: expected 1, 3 or 6, got 4"),
        (Contract(4, 3, "corners", (CORNERS, SPREAD)), "size: expected 8 to 4096"),
        (Contract(96, 3, "corners", ()), "outputs: expected different names"),
        (Contract(96, 3, "corners", (CORNERS, CORNERS)), "outputs: expected different names"),
        (Contract(96, 3, "corners", (CORNERS,)), WANTED),
        (Contract(96, 3, "corners", (replace(CORNERS, name="points"), SPREAD)), WANTED),
        (Contract(96, 3, "corners", (SPREAD, CORNERS)), WANTED),
        (Contract(96, 3, "corners", tuple(Output(n, (1, 8, 3)) for n in ("corners", "spread"))), r"\(1, 8, 3\)"),
        (Contract(96, 3, "corners", (CORNERS, replace(SPREAD, shape=(2, 8, 2)))), WANTED),
        (Contract(96, 3, "surface", (CORNERS, SPREAD)), "outputs: expected a square number of cells, got 0"),
        (Contract(96, 3, "surface", (*SURFACE[:3], SURFACE[4], SURFACE[3])), WANTED),
        (Contract(96, 3, "corners", SURFACE), WANTED),
        (Contract(96, 3, "corners", (replace(CORNERS, scale=0.0), SPREAD)), "corners: expected a positive shape and"),
        (
            Contract(96, 3, "corners", (replace(CORNERS, shape=(-1, 8, 2)), SPREAD)),
            "corners: expected a positive shape",
        ),
    ],
)
def test_a_contract_that_nobody_can_use_is_refused(tmp_path: Path, contract: Contract, message: str) -> None:
    with pytest.raises(InputError, match=rf"network\.contract\.?.*{message}"):
        write_object_bundle(tmp_path / "bad", network_file(contract=contract), [THING])
    assert not list(tmp_path.iterdir())


def test_contents_may_be_files_and_the_mesh_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(b"from a file")
    bundle = write(tmp_path / "thing", network=tmp_path / "n.onnx", mesh=None)
    assert bundle.network_path.read_bytes() == b"from a file"
    assert bundle.object().mesh_path is None
    assert sorted(f.name for f in bundle.path.iterdir()) == ["manifest.json", "network.onnx"]


def set_key(*keys: str | int, value: Any) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


def delete(*keys: str | int) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("format", value=3), "format: expected 1 or 2, which this package reads, got 3"),
        (set_key("format", value=True), "format: expected 1 or 2"),
        (set_key("format", value="2"), "format: expected 1 or 2"),
        (delete("format"), "format: expected 1 or 2, which this package reads, got None"),
        (delete("task"), "task: expected a text, got None"),
        (set_key("extra", value=1), "extra: expected one of the keys"),
        (set_key("objects", 0, "colour", value="red"), r"objects\[0\]\.colour: expected one of the keys"),
        (delete("objects", 0, "diameter"), r"objects\[0\]\.diameter: expected a value, got none"),
        (delete("calibration"), "calibration: expected a value"),
        (set_key("objects", 0, "id", value="7"), r"objects\[0\]\.id: expected int"),
        (set_key("objects", 0, "name", value=""), r"objects\[0\]\.name: expected a name"),
        (set_key("objects", 0, "minimum", value=[0, 0]), r"objects\[0\]\.minimum: expected 3 values"),
        (set_key("objects", 0, "minimum", value=[0.2, -1, -1]), r"objects\[0\]: expected minimum below maximum"),
        (
            set_key("objects", 0, "minimum", value=[float("nan"), -1, -1]),
            r"objects\[0\]\.minimum\[0\]: expected a finite number",
        ),
        (set_key("objects", 0, "diameter", value=350.0), r"objects\[0\]\.diameter: expected between"),
        (
            set_key("objects", 0, "symmetries", value=[[1.0] * 16]),
            r"objects\[0\]\.symmetries\[0\]: expected 16 numbers of a rigid",
        ),
        (
            set_key("objects", 0, "symmetries", value=[[1.0] * 12]),
            r"objects\[0\]\.symmetries\[0\]: expected 16 numbers",
        ),
        (set_key("network", "contract", "size", value=0), r"network\.contract\.size: expected 8 to 4096"),
        (set_key("objects", 0, "focal", value=-1.0), r"objects\[0\]\.focal: expected a positive number"),
        (
            set_key("calibration", "spread_scale", value=float("inf")),
            r"calibration\.spread_scale: expected a finite number",
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
        ObjectBundle.load(tmp_path / "thing")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "thing").path
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"manifest\.json: .*expected"):
        ObjectBundle.load(folder)


@pytest.mark.parametrize("file", ["network.onnx", "obj_000007.ply"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path / "thing").path
    (folder / file).write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{file}: expected sha256"):
        ObjectBundle.load(folder)
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file}: expected a file in the bundle"):
        ObjectBundle.load(folder)


def test_missing_folder_and_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ObjectBundle.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"expected a bundle with manifest\.json"):
        ObjectBundle.load(tmp_path)


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
    assert ObjectBundle.load(tmp_path / "thing").network_path.read_bytes() == b"network"
    assert [f.name for f in tmp_path.iterdir()] == ["thing"]


def test_toy_bundle_can_be_moved(toy_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_bundle, tmp_path / "moved")
    assert ObjectBundle.load(tmp_path / "moved").object().crop == toy.CROP


def test_the_task_of_a_bundle_decides_its_class(toy_bundle: Path, tmp_path: Path) -> None:
    hand = write_toy_hand(tmp_path / "hand")
    assert type(load_bundle(toy_bundle)) is ObjectBundle and type(load_bundle(hand)) is HandBundle
    with pytest.raises(InputError, match="expected a bundle of objects, got one for hand_pose"):
        ObjectBundle.load(hand)
    with pytest.raises(InputError, match="expected a bundle of hands, got one for object_pose"):
        HandBundle.load(toy_bundle)
    file = hand / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task": "foot_pose"}))
    with pytest.raises(InputError, match="task: expected one of object_pose, hand_pose, got 'foot_pose'"):
        load_bundle(hand)


# Format 1: one object beside its crop, and no contract.


@pytest.mark.parametrize(("name", "object_id"), [("tugboat", 1)])
def test_format_1_is_read(name: str, object_id: int) -> None:
    """The committed bundle: what stands in the file is what comes out, and the contract follows from the window."""
    written = json.loads((MODELS / name / "manifest.json").read_text())
    assert written["format"] == 1 and "contract" not in written["network"]
    bundle = load_bundle(MODELS / name)
    assert isinstance(bundle, ObjectBundle)
    x = bundle.object(name)
    assert (x.name, x.object_id, x.index, x.diameter) == (name, object_id, 0, written["object"]["diameter"])
    assert x.crop == Crop(written["crop"]["size"], written["crop"]["focal"])
    np.testing.assert_array_equal(x.box_corners[0], written["object"]["minimum"])
    assert x.mesh_path == MODELS / name / "mesh.ply" and bundle.spread_scale == written["calibration"]["spread_scale"]
    outputs = (Output("corners", (8, 2), 64.0, 63.5), Output("spread", (8, 2), 64.0))
    assert bundle.contract == Contract(128, 3, "corners", outputs)
    assert bundle.manifest.network.architecture == written["network"]["architecture"]
    assert bundle.manifest.training == written["training"]


def format_1(name: str, folder: Path) -> Path:
    """The committed tugboat, which is of format 1; or a hand as that format wrote it."""
    if name == "tugboat":
        return Path(shutil.copytree(MODELS / name, folder / name))
    bundle = write_toy_hand(folder / name)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["network"]["contract"]
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    return bundle


def test_format_1_of_hands_is_read(tmp_path: Path) -> None:
    path = format_1("hand", tmp_path)
    written, bundle = json.loads((path / "manifest.json").read_text()), load_bundle(path)
    assert isinstance(bundle, HandBundle)
    assert bundle.hand.joints == tuple(written["hand"]["joints"]) and len(bundle.hand.joints) == 14
    assert bundle.contract == hand_contract(14, written["hand"]["size"], written["hand"]["cube"])
    assert [x.shape for x in bundle.contract.outputs] == [(14, 3), (14, 3)]
    assert bundle.manifest.network.architecture == written["network"]["architecture"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tugboat", delete("object", "diameter"), r"object\.diameter: expected a value, got none"),
        ("tugboat", delete("object"), "object: expected a value, got none"),
        ("tugboat", delete("crop", "focal"), r"crop\.focal: expected a value, got none"),
        ("tugboat", set_key("crop", "zoom", value=2.0), r"crop\.zoom: expected one of the keys size, focal"),
        ("tugboat", set_key("crop", "size", value=2), "size: expected 8 to 4096 pixels, got 2"),
        ("tugboat", set_key("object", "diameter", value=350.0), "diameter: expected between"),
        ("tugboat", set_key("object", "id", value="1"), r"object\.id: expected int"),
        ("tugboat", set_key("objects", value=[]), "objects: expected one of the keys"),
        ("tugboat", set_key("network", "contract", value={}), r"network\.contract: expected one of the keys"),
        ("tugboat", set_key("network", "sha256", value="00"), "network.onnx: expected sha256 00"),
        ("tugboat", delete("calibration"), "calibration: expected a value"),
        ("hand", delete("hand", "cube"), r"hand\.cube: expected a value, got none"),
        ("hand", delete("hand"), r"hand\.name: expected a value, got none"),
        ("hand", set_key("hand", "size", value=2), r"hand\.size: expected 8 to 4096 pixels, got 2"),
        ("hand", set_key("hand", "cube", value=300.0), r"hand\.cube: expected a side in metres"),
        ("hand", set_key("network", "contract", value={}), "network: expected an entry of format 1"),
        ("hand", delete("network"), "network: expected an entry of format 1"),
        ("hand", delete("network", "sha256"), r"network\.sha256: expected a value"),
        ("hand", set_key("format", value=2), r"network\.contract: expected a value, got none"),
    ],
)
def test_a_damaged_manifest_of_format_1_is_refused_by_name(
    tmp_path: Path, name: str, change: Callable[[dict], None], message: str
) -> None:
    file = format_1(name, tmp_path) / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
        load_bundle(tmp_path / name)
