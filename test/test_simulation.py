"""The simulated photographs: exact labels, an appearance that is not the training renderer's, a dataset that reads
back."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from plyfile import PlyData

pytest.importorskip("pyrender", reason="rendering needs the extra [train]")

from fm_pose_core.cli import main
from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, log_so3
from fm_pose_core.hands.frames import read_frames
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.rendering.mesh import load_mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.simulation import hands
from fm_pose_core.simulation.dataset import photos_of_training, scattered_pose, sequence_poses, simulate
from fm_pose_core.simulation.hands import simulate_hands
from fm_pose_core.simulation.studio import CAMERA, CENTER, Studio
from fm_pose_core.simulation.tugboat import demo_object
from fm_pose_core.types import Camera

SMALL = Camera(np.array([[285.6, 0.0, 161.3], [0.0, 285.9, 119.1], [0.0, 0.0, 1.0]]), 320, 240)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(demo_object(), seed=3, camera=SMALL)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("demo"), photos=3, frames=2, seed=1)


def unoccluded_pose() -> Array:
    """T_camera_object (4, 4) from straight above, where nothing can stand before the object."""
    R = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = np.array([0.02, -0.03, 0.6]) - R @ CENTER
    return T


def test_object_is_asymmetric_and_the_same_every_time() -> None:
    mesh, again = demo_object(), demo_object()
    assert np.array_equal(mesh.vertices, again.vertices) and np.array_equal(mesh.colours, again.colours)
    assert 3000 <= len(mesh.faces) <= 6000 and 0.10 <= mesh.diameter <= 0.15
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
    for axes in ([-1, 1, 1], [1, -1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]):  # mirror images and half turns
        turned = (mesh.vertices - mesh.vertices.mean(0)) * axes + mesh.vertices.mean(0)
        distance = np.array([np.linalg.norm(mesh.vertices - p, axis=1).min() for p in turned[::20]])
        assert distance.max() > 0.005


def test_mask_agrees_with_projected_mesh(studio: Studio) -> None:
    T = unoccluded_pose()
    photo = studio.photograph(T, np.random.default_rng(0))
    uv = SMALL.pixels(apply(T, demo_object().vertices))
    rows, columns = np.nonzero(photo.silhouette > 0.5)
    found = np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])
    assert np.allclose(found, [*uv.min(0), *uv.max(0)], atol=1.0)
    assert photo.visible_fraction == pytest.approx(1.0, abs=0.01)


def test_photo_shows_the_object_where_the_label_says(studio: Studio) -> None:
    """The photograph fits the rendering best with no shift at all: what the lens and the lights do moves nothing."""
    T = unoccluded_pose()
    photo = studio.photograph(T, np.random.default_rng(0)).image
    renderer = Renderer(demo_object(), SMALL.K, SMALL.width, SMALL.height)
    rgba, _ = renderer.render(T)
    renderer.close()
    inside = cv2.erode((rgba[..., 3] == 255).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rendered = cv2.GaussianBlur(cv2.cvtColor(rgba[..., :3], cv2.COLOR_RGB2GRAY), (0, 0), 0.8)[inside]
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    fits = {}
    for dx in (-2, -1, 0, 1, 2):
        for dy in (-2, -1, 0, 1, 2):
            moved = cv2.warpAffine(grey, np.array([[1.0, 0, -dx], [0, 1.0, -dy]]), grey.shape[::-1])
            fits[dx, dy] = np.corrcoef(moved[inside], rendered)[0, 1]
    assert max(fits, key=lambda k: fits[k]) == (0, 0)
    assert fits[0, 0] > 0.6


def test_photo_differs_from_rendering(studio: Studio) -> None:
    T = unoccluded_pose()
    first = studio.photograph(T, np.random.default_rng(0)).image
    second = studio.photograph(T, np.random.default_rng(1)).image
    renderer = Renderer(demo_object(), SMALL.K, SMALL.width, SMALL.height)
    rgba, _ = renderer.render(T)
    renderer.close()
    inside = rgba[..., 3] == 255
    assert np.abs(first[inside].astype(float) - rgba[inside, :3]).mean() > 10.0  # light, paint, colours of the sensor
    assert 0.5 < np.abs(first.astype(float) - second).mean() < 6.0  # noise
    assert len(np.unique(first[~inside].reshape(-1, 3), axis=0)) > 1000  # table and clutter


def test_set_ups_differ_and_repeat() -> None:
    T = unoccluded_pose()
    images = []
    for seed in (5, 5, 6):
        studio = Studio(demo_object(), seed, SMALL, supersampling=1)
        images.append(studio.photograph(T, np.random.default_rng(0)).image.astype(float))
        studio.close()
    assert np.array_equal(images[0], images[1])
    assert np.abs(images[0] - images[2]).mean() > 10.0


def test_clutter_hides_the_object() -> None:
    """With the clutter between camera and object, less than all of it is visible; never more than all."""
    studio = Studio(demo_object(), seed=11, camera=SMALL, supersampling=1)
    rng = np.random.default_rng(2)
    thing = studio.clutter.vertices[studio.clutter.vertices[:, 2].argmax(), :2]
    eye = 0.7 * np.array([*(thing / np.linalg.norm(thing)), 0.18])
    forward = (CENTER - eye) / np.linalg.norm(CENTER - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    T[:3, 3] = -T[:3, :3] @ eye
    photo = studio.photograph(T, rng)
    studio.close()
    assert photo.visible_fraction < 0.9
    assert (photo.visible <= photo.silhouette + 0.02).all()


def test_sequence_is_smooth_and_covers_the_distances() -> None:
    poses = sequence_poses(90)
    distances = [np.linalg.norm(apply(T, CENTER[None])) for T in poses]
    assert 0.65 < min(distances) < 0.72 and 1.0 < max(distances) < 1.1
    pixels = np.array([CAMERA.pixels(apply(T, CENTER[None]))[0] for T in poses])
    assert np.linalg.norm(np.diff(pixels, axis=0), axis=1).max() < 15.0  # tracking keeps up
    turns = [np.degrees(np.linalg.norm(log_so3(a[:3, :3].T @ b[:3, :3]))) for a, b in pairwise(poses)]
    assert max(turns) < 6.0


def test_scattered_views_are_upright_views_from_above() -> None:
    rng = np.random.default_rng(0)
    for T in (scattered_pose(rng) for _ in range(50)):
        eye = -T[:3, :3].T @ T[:3, 3]
        assert eye[2] > 0.08 and 0.6 < np.linalg.norm(eye - CENTER) < 1.15


def test_dataset_reads_back(dataset: Path) -> None:
    mesh = demo_object()
    bop = BopDataset(dataset)
    model = bop.model(1)
    assert model.diameter == pytest.approx(mesh.diameter, rel=1e-6) and not model.symmetries
    assert np.allclose([model.minimum, model.maximum], mesh.box, atol=1e-9)
    read = load_mesh(model.mesh_path, 1e-3)
    assert np.allclose(read.vertices, mesh.vertices, atol=1e-7) and np.array_equal(read.colours, mesh.colours)
    assert np.array_equal(read.faces, mesh.faces)
    vertex = PlyData.read(model.mesh_path)["vertex"]
    assert np.allclose(np.stack([vertex[a] for a in ("nx", "ny", "nz")], 1), mesh.normals, atol=1e-7)

    photos = photos_of_training(mesh, 3, seed=1)
    real = bop.instances("train_real")
    assert [x.im_id for x in real] == [0, 1, 2] and len(bop.instances("test")) == 2
    for instance, photo in zip(real, photos, strict=True):
        assert np.allclose(instance.T_camera_object, photo.T_camera_object, atol=1e-9)
        assert np.allclose(instance.camera.K, CAMERA.K)
        assert instance.visible_fraction == pytest.approx(photo.visible_fraction)
        assert np.abs(read_image(instance.image_path).astype(float) - photo.image).mean() < 6.0  # JPEG
    info = json.loads((dataset / "test/000001/scene_gt_info.json").read_text())
    for instance in bop.instances("test"):
        x, y, width, height = info[str(instance.im_id)][0]["bbox_obj"]
        uv = instance.camera.pixels(apply(instance.T_camera_object, mesh.vertices))
        assert np.allclose([x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5], [*uv.min(0), *uv.max(0)], atol=1.5)
    assert bop.targets() == {(1, 0, 1), (1, 1, 1)}


def test_an_older_dataset_leaves_nothing_behind(tmp_path: Path) -> None:
    simulate(tmp_path, photos=0, frames=3, seed=1)
    rgb = tmp_path / "test/000001/rgb"
    (rgb / "notes.txt").write_text("of somebody else")
    simulate(tmp_path, photos=0, frames=1, seed=2)
    assert sorted(p.name for p in rgb.iterdir()) == ["000000.jpg", "notes.txt"]
    assert len(BopDataset(tmp_path).instances("test")) == 1


# Hands


def subjects(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "subjects.txt").read_text().split()]


def test_every_frame_shows_somebody(tmp_path: Path) -> None:
    simulate_hands(tmp_path, train=3, test=1, seed=1)
    train, test = (read_frames("nyu", tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 1) and subjects(tmp_path / "train") == [0, 0, 1]
    assert train.subjects.tolist() == [0, 0, 1]
    for frames in (train, test):
        for k in range(len(frames)):
            u, v = np.rint(frames.camera.pixels(frames.joints[k])).astype(int).T
            seen = frames.depth(k)[v, u]
            assert np.abs(seen - frames.joints[k, :, 2])[seen > 0].min() < 0.03


def test_an_older_dataset_of_hands_leaves_nothing_behind(tmp_path: Path) -> None:
    simulate_hands(tmp_path, train=4, test=2, seed=1)
    (tmp_path / "train" / "depth_1_note.png").write_bytes(b"of somebody else")
    simulate_hands(tmp_path, train=2, test=0, seed=1)
    assert len(read_frames("nyu", tmp_path, "train")) == 2
    kept = {"depth_1_0000001.png", "depth_1_0000002.png", "joint_data.mat", "labels.txt", "subjects.txt"}
    assert {p.name for p in (tmp_path / "train").iterdir()} == kept | {"depth_1_note.png"}
    assert not list((tmp_path / "test").iterdir())
    foreign = tmp_path / "foreign" / "test" / "depth_1_0000009.png"  # as in NYU's own folder
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"of somebody else")
    simulate_hands(tmp_path / "foreign", train=0, test=1, seed=1)
    assert foreign.is_file()


def test_depth_maps_are_written_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one is made, all before it are in the folder."""
    written, real = [], hands.photograph

    def watched(*arguments: Any) -> Any:
        written.append(len(list(tmp_path.rglob("*.png"))))
        return real(*arguments)

    monkeypatch.setattr(hands, "photograph", watched)
    simulate_hands(tmp_path, train=2, test=2, seed=1)
    assert written == [0, 1, 2, 3]


def test_simulate_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(tmp_path / "out"), "--photos", "0", "--frames", "1", "--seed", "4"]) == 0
    assert len(BopDataset(tmp_path / "out").instances("test")) == 1
    assert main(["simulate", str(tmp_path / "out"), "--quality", "0"]) == 2
    assert "--quality" in capsys.readouterr().err
