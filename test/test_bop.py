"""Reading datasets in BOP format, result files there and back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bop
import toy_bundle as toy

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import box_corners, exp_so3, transform
from fm_pose_core.objects.bop import BopDataset, Result, read_results, relabelled, write_results
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.rendering.mesh import read_vertices


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bop.write_tiny_bop(tmp_path_factory.mktemp("data") / "tiny")


def test_instances_come_back_in_metres(root: Path) -> None:
    dataset = BopDataset(root)
    instances = dataset.instances("test")
    assert [(i.scene_id, i.im_id, i.object_id) for i in instances] == [
        (1, im, o) for im in tiny_bop.FRAMES for o in (1, 2)
    ]
    for i in instances:
        np.testing.assert_allclose(i.T_camera_object, tiny_bop.truth(i.im_id, i.object_id), atol=1e-9)
        np.testing.assert_allclose(i.camera.K, tiny_bop.CAMERA.K)
        assert (i.camera.width, i.camera.height) == (320, 240)
        assert i.visible_fraction == (0.05 if i.im_id == tiny_bop.HIDDEN else 0.9)
    assert dataset.frames("test", 1) == list(tiny_bop.FRAMES)
    assert len(dataset.instances("test", [2])) == 4


def test_models(root: Path) -> None:
    dataset = BopDataset(root)
    model = dataset.model(1)
    np.testing.assert_allclose([model.minimum, model.maximum], [toy.MINIMUM, toy.MAXIMUM])
    assert model.diameter == pytest.approx(toy.DIAMETER) and model.symmetries == ()
    (symmetry,) = dataset.model(2).symmetries
    np.testing.assert_allclose(symmetry, tiny_bop.HALF_TURN, atol=1e-12)
    with pytest.raises(InputError, match="object id: expected one of \\[1, 2\\]"):
        dataset.model(3)


def test_a_continuous_symmetry_becomes_steps(tmp_path: Path) -> None:
    root = tiny_bop.write_tiny_bop(tmp_path / "tiny")
    path = root / "models" / "models_info.json"
    info = json.loads(path.read_text())
    info["2"] = {
        **info["2"],
        "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [10, 0, 0]}],
        "symmetries_discrete": [],
    }
    path.write_text(json.dumps(info))
    symmetries = BopDataset(root).model(2).symmetries
    assert len(symmetries) == 35
    for S in symmetries:
        np.testing.assert_allclose(S @ [0.01, 0, 0.3, 1], [0.01, 0, 0.3, 1], atol=1e-12)  # the axis stays


def test_without_targets_and_visibility(tmp_path: Path) -> None:
    dataset = BopDataset(tiny_bop.write_tiny_bop(tmp_path / "bare", targets=False, gt_info=False))
    assert dataset.targets() is None
    assert all(np.isnan(i.visible_fraction) for i in dataset.instances("test"))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("test/000001/scene_gt.json", "scene_gt.json"),
        ("models/models_info.json", "models_info.json"),
        ("test/000001/rgb/000002.png", "expected an image 000002"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, remove: str, message: str) -> None:
    root = tiny_bop.write_tiny_bop(tmp_path / "tiny")
    (root / remove).unlink()
    with pytest.raises(InputError, match=message):
        dataset = BopDataset(root)
        _ = dataset.objects
        dataset.instances("test")


def test_a_split_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"split 'train'.*\['models', 'test'\]"):
        BopDataset(root).instances("train")


def test_results_there_and_back(tmp_path: Path) -> None:
    T = transform(exp_so3(np.array([0.1, 2.0, -0.5])), np.array([0.123456789, -0.2, 1.5]))
    written = [Result(2, 3, 9, 0.75, T, 0.0125), Result(2, 4, 12, 0.5, tiny_bop.brick_pose(3))]
    write_results(tmp_path / "r.csv", written)
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == "scene_id,im_id,obj_id,score,R,t,time"
    assert ",123.456789 -200 1500,0.0125" in (tmp_path / "r.csv").read_text()  # millimetres
    for a, b in zip(written, read_results(tmp_path / "r.csv"), strict=True):
        assert (a.scene_id, a.im_id, a.object_id, a.score, a.time) == (
            b.scene_id,
            b.im_id,
            b.object_id,
            b.score,
            b.time,
        )
        np.testing.assert_allclose(a.T_camera_object, b.T_camera_object, atol=1e-8)


def test_a_read_rotation_is_one(tmp_path: Path) -> None:
    R = (1.002 * exp_so3(np.array([0.3, 0.2, 0.1]))).ravel()
    (tmp_path / "r.csv").write_text(f"1,2,3,0.5,{' '.join(map(str, R))},0 0 1000,-1\n")
    (result,) = read_results(tmp_path / "r.csv")
    np.testing.assert_allclose(result.T_camera_object[:3, :3] @ result.T_camera_object[:3, :3].T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    "line", ["1,2,3,0.5,1 0 0 0 1 0 0 0,0 0 1,-1", "1,2,3,0.5", "1,2,x,0.5,1 0 0 0 1 0 0 0 1,0 0 1,-1"]
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.csv").write_text(f"scene_id,im_id,obj_id,score,R,t,time\n{line}\n")
    with pytest.raises(InputError, match=r"r\.csv:2: expected scene_id"):
        read_results(tmp_path / "r.csv")


def test_vertices_of_every_kind_of_ply(root: Path, tmp_path: Path) -> None:
    expected = box_corners(-tiny_bop.BRICK, tiny_bop.BRICK)
    np.testing.assert_allclose(model_vertices(BopDataset(root).model(2)), expected, atol=1e-8)
    for encoding, order in (("binary_little_endian", "<"), ("binary_big_endian", ">")):
        header = f"ply\nformat {encoding} 1.0\ncomment c\nelement vertex 8\nproperty uchar red\n" + "".join(
            f"property float {a}\n" for a in "xyz"
        )
        header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        records = np.zeros(8, dtype=[("red", "u1"), ("xyz", f"{order}f4", 3)])
        records["xyz"] = expected
        face = np.array([(3, (0, 1, 2))], dtype=[("count", "u1"), ("indices", f"{order}i4", 3)])
        content = header.encode() + records.tobytes() + face.tobytes()
        (tmp_path / "m.ply").write_bytes(content)
        np.testing.assert_allclose(read_vertices(tmp_path / "m.ply"), expected, atol=1e-8)
        (tmp_path / "short.ply").write_bytes(content[:-60])
        with pytest.raises(InputError, match=r"short\.ply"):
            read_vertices(tmp_path / "short.ply")
    (tmp_path / "no.ply").write_bytes(b"solid cube\n")
    with pytest.raises(InputError, match="PLY"):
        read_vertices(tmp_path / "no.ply")


@pytest.mark.parametrize(
    ("properties", "values"),
    [("xy", "1 2"), ("xyz", "1 2 nan"), ("xyz", "1 2"), ("xyz", "1 2 three"), ("xyz", "")],
    ids=["no z", "not finite", "a short line", "no number", "no line"],
)
def test_a_ply_file_without_whole_vertices_is_named(tmp_path: Path, properties: str, values: str) -> None:
    header = "".join(f"property float {a}\n" for a in properties)
    (tmp_path / "m.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{header}end_header\n{values}\n")
    with pytest.raises(InputError, match=r"m\.ply: expected"):
        read_vertices(tmp_path / "m.ply")


def test_a_ply_file_without_vertices_or_without_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.ply").write_text("ply\nformat ascii 1.0\nelement face 0\nproperty int a\nend_header\n")
    for name in ("m.ply", "none.ply"):
        with pytest.raises(InputError, match=name):
            read_vertices(tmp_path / name)


def other_labels(root: Path, move: float, images: tuple[str, ...]) -> dict[str, list[dict[str, object]]]:
    """The dataset's labels of some images, moved along x by so many metres; of object 1 alone in the last of them."""
    truths = json.loads((root / "test" / "000001" / "scene_gt.json").read_text())
    chosen = {image: truths[image] for image in images}
    chosen[images[-1]] = [t for t in chosen[images[-1]] if t["obj_id"] == 1]
    for entries in chosen.values():
        for truth in entries:
            truth["cam_t_m2c"] = np.add(truth["cam_t_m2c"], [1e3 * move, 0, 0]).tolist()
    return chosen


def test_other_labels_take_the_place_of_the_datasets(root: Path, tmp_path: Path) -> None:
    """As a file or as a folder with scenes; what they do not have is left out."""
    labels = other_labels(root, 0.02, ("2", "3"))
    (tmp_path / "gt.json").write_text(json.dumps(labels))
    (tmp_path / "all" / "000001").mkdir(parents=True)
    (tmp_path / "all" / "000001" / "scene_gt.json").write_text(json.dumps(labels))
    for path in (tmp_path / "gt.json", tmp_path / "all"):
        instances = BopDataset(root, path).instances("test")
        assert [(x.im_id, x.object_id) for x in instances] == [(2, 1), (2, 2), (3, 1)]
        for x in instances:
            want = tiny_bop.truth(x.im_id, x.object_id)
            np.testing.assert_allclose(x.T_camera_object[:3, 3], want[:3, 3] + [0.02, 0, 0], atol=1e-9)
            np.testing.assert_allclose(x.T_camera_object[:3, :3], want[:3, :3], atol=1e-9)
            assert x.visible_fraction == pytest.approx(0.9)
    with pytest.raises(InputError, match=r"expected a scene_gt\.json, or a folder"):
        BopDataset(root, tmp_path / "none.json").instances("test")


def test_one_file_of_labels_cannot_serve_several_scenes(root: Path, tmp_path: Path) -> None:
    instances = BopDataset(root).instances("test")
    elsewhere = [replace(x, scene_id=2) for x in instances]
    (tmp_path / "gt.json").write_text(json.dumps(other_labels(root, 0.0, ("2",))))
    with pytest.raises(InputError, match=r"a folder with SCENE/scene_gt\.json for scenes 1, 2, got one file"):
        relabelled([*instances, *elsewhere], tmp_path / "gt.json")


def test_each_of_several_instances_takes_the_nearest_label(root: Path, tmp_path: Path) -> None:
    first = next(x for x in BopDataset(root).instances("test") if x.object_id == 1)
    T = first.T_camera_object.copy()
    T[0, 3] += 0.1
    labels = {
        "2": [
            {"obj_id": 1, "cam_R_m2c": P[:3, :3].ravel().tolist(), "cam_t_m2c": (1e3 * P[:3, 3]).tolist()}
            for P in (T, first.T_camera_object)
        ]
    }
    (tmp_path / "gt.json").write_text(json.dumps(labels))
    found = relabelled([first, replace(first, T_camera_object=T)], tmp_path / "gt.json")
    np.testing.assert_allclose([x.T_camera_object[0, 3] for x in found], [first.T_camera_object[0, 3], T[0, 3]])
