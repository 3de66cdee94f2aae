"""Training samples: labels against direct projection, warped views against direct renders, distributions, pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")

from rendered_bop import HALF, box_mesh, write_rendered_bop

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, box_corners, exp_so3, inverse_intrinsics, log_so3, project, transform
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.photographs import photo_colours, prepare_real_views
from fm_pose_core.objects.pnp import solve_pnp
from fm_pose_core.objects.samples import (
    ObjectAssets,
    PairSamples,
    RealConfig,
    SyntheticConfig,
    SyntheticSamples,
    nearby,
    warp,
)
from fm_pose_core.objects.surroundings import Surroundings, over
from fm_pose_core.objects.viewpoints import ViewpointConfig, look_at, random_viewpoint, reaches, window_rotation
from fm_pose_core.rendering.appearance import AppearanceConfig
from fm_pose_core.rendering.backgrounds import Backgrounds, read_folder
from fm_pose_core.rendering.renderer import Renderer

MESH = box_mesh()
CROP = Crop.around(MESH.diameter, 0.3)
VIEWS = ViewpointConfig(distance=(0.3, 0.5))
CORNERS = box_corners(-HALF, HALF)
ASSETS = ObjectAssets(MESH, CORNERS, CROP)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of antialiased masks: the common coverage over the joint one."""
    a, b = a.astype(float), b.astype(float)
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def centroid(mask: np.ndarray) -> np.ndarray:
    """(u, v) in pixels, weighted by the coverage."""
    v, u = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return np.array([(u * mask).sum(), (v * mask).sum()]) / mask.sum()


def black() -> Surroundings:
    """Black backgrounds."""
    nothing = [np.zeros((300, 300, 3), np.uint8)]
    return Surroundings(Backgrounds(nothing, CROP.size, np.random.default_rng(0), procedural=0.0))


def test_a_warped_view_is_the_direct_render_of_the_turned_camera() -> None:
    rng = np.random.default_rng(1)
    renderer = Renderer(MESH, CROP.K, CROP.size, CROP.size)
    for _ in range(10):
        T = random_viewpoint(rng, VIEWS, np.zeros(3))
        R = window_rotation(rng, CROP.focal, 45.0, 10.0)
        H = CROP.K @ R @ inverse_intrinsics(CROP.K)
        warped = warp(renderer.render(T)[0], H, CROP.size)
        direct = renderer.render(transform(R, np.zeros(3)) @ T)[0]
        assert iou(warped[..., 3], direct[..., 3]) >= 0.98
        assert np.abs(centroid(warped[..., 3]) - centroid(direct[..., 3])).max() < 0.1  # pixels, in each axis
        label = project(H @ CROP.K, apply(T, CORNERS))
        expected, _ = cv2.projectPoints(CORNERS, cv2.Rodrigues(R @ T[:3, :3])[0], R @ T[:3, 3], CROP.K, None)
        assert np.abs(label - expected[:, 0]).max() < 0.1
    renderer.close()


@pytest.mark.parametrize("cell", [16, 8])
def test_the_label_of_a_sample_is_where_the_picture_shows_the_object(cell: int) -> None:
    white = replace(MESH, colours=np.full_like(MESH.colours, 255))  # on black: the picture is the mask
    assets = ObjectAssets(white, CORNERS, CROP)
    samples = SyntheticSamples(assets, SyntheticConfig(viewpoints=VIEWS), black(), np.random.default_rng(2), cell=cell)
    renderer = Renderer(white, CROP.K, CROP.size, CROP.size)
    for _ in range(10):
        image, (corners,), _, index, frames, camera, box, points = samples.draw()
        assert np.abs(project(np.eye(3), box @ camera[:, :3].T + camera[:, 3]) - corners).max() < 1e-2  # float32
        assert index == 0 and frames.shape == (1, 3, 4) and (frames[0] == np.eye(4)[:3]).all()
        pose = solve_pnp(CORNERS, corners.astype(float), CROP.K)
        assert pose.reprojection_error < 0.1  # pixels: the label is the projection of a rigid box
        seen = ~np.isnan(points[:, 0])
        centres = (np.arange(CROP.size / cell) + 0.5) * cell - 0.5
        cells = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
        shown = project(CROP.K, apply(pose.T_camera_object, points[seen].astype(float)))
        assert seen.sum() >= 4 and np.abs(shown - cells[seen]).max() < 1.0  # pixels: nearest pixel of the view
        direct = over(renderer.render(pose.T_camera_object)[0], np.zeros_like(image))
        assert iou(image, direct) >= 0.98
        assert np.abs(centroid(image[..., 0]) - centroid(direct[..., 0])).max() < 0.1  # pixels, in each axis
        expected, _ = cv2.projectPoints(
            CORNERS, cv2.Rodrigues(pose.T_camera_object[:3, :3])[0], pose.T_camera_object[:3, 3], CROP.K, None
        )
        assert np.abs(corners - expected[:, 0]).max() < 0.1
    samples.close()
    renderer.close()


def test_a_mask_from_the_alpha_is_unbiased() -> None:
    """The summed alpha of a frontal square equals its area: a mask off by 0.36 px would miss by 2 %."""
    renderer = Renderer(MESH, CROP.K, CROP.size, CROP.size)
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.4]))
    area = 4 * HALF[0] * HALF[1] * (CROP.focal / (0.4 - HALF[2])) ** 2
    assert renderer.render(T)[0][..., 3].sum() / 255.0 == pytest.approx(area, rel=0.005)
    renderer.close()


def test_viewpoints_follow_the_protocol() -> None:
    rng = np.random.default_rng(0)
    poses = [random_viewpoint(rng, ViewpointConfig(), np.array([0.01, 0.02, 0.03])) for _ in range(4000)]
    heights = np.array([-T[2, 2] for T in poses])  # z of the direction from the object to the camera
    assert heights.min() >= 0.0
    assert np.histogram(heights, 8, (0.0, 1.0))[0] / 500 == pytest.approx(1.0, abs=0.2)  # uniform on the sphere
    centers = np.array([apply(T, np.array([[0.01, 0.02, 0.03]]))[0] for T in poses])
    assert np.abs(centers[:, :2]).max() < 1e-9
    assert centers[:, 2].min() >= 0.65 and centers[:, 2].max() <= 1.15
    assert (
        min(T[2, 2] for T in (random_viewpoint(rng, ViewpointConfig(sphere="full"), np.zeros(3)) for _ in range(100)))
        < 0
        < heights.max()
    )
    angles = [np.degrees(np.linalg.norm(log_so3(window_rotation(rng, 500.0, 45.0, 0.0)))) for _ in range(1000)]
    assert 44.0 < max(angles) <= 45.0


def test_a_pose_nearby_is_as_tilted_as_the_photograph() -> None:
    rng, center = np.random.default_rng(0), np.array([0.01, 0.02, 0.03])
    R = exp_so3(np.array([0.5, -1.0, 2.0]))
    poses = [nearby(transform(R, np.ones(3)), center, rng, 20.0, VIEWS) for _ in range(300)]
    angles = np.degrees([np.linalg.norm(log_so3(R.T @ T[:3, :3])) for T in poses])
    assert 18.0 < angles.max() <= 20.0
    places = np.array([apply(T, center[None])[0] for T in poses])
    assert np.abs(places[:, :2]).max() < 1e-9
    assert places[:, 2].min() >= 0.3 and places[:, 2].max() <= 0.5


def test_renderings_near_the_photographs(dataset: BopDataset) -> None:
    """All of them, within the angle from one of the labels and the turn of the window."""
    views, _ = prepare_real_views(dataset, "test", dataset.instances("test"), MESH, CROP.patch(), np.zeros(3))
    assets = ObjectAssets(MESH, CORNERS, CROP, patch=CROP.patch(), views=views)
    still = replace(VIEWS, in_plane=0.0)
    config = SyntheticConfig(viewpoints=still, photographed=1.0, photographed_angle=5.0, displacement=0.0)
    samples = SyntheticSamples(assets, config, black(), np.random.default_rng(0))
    for _ in range(20):
        _, (corners,), *_ = samples.draw()
        T = solve_pnp(CORNERS, corners.astype(float), CROP.K).T_camera_object
        away = [np.linalg.norm(log_so3(T[:3, :3].T @ x.T_view_object[:3, :3])) for x in views]
        assert np.degrees(min(away)) < 5.1
    samples.close()


@pytest.mark.parametrize("options", [{}, {"sphere": "full"}, {"lowest_elevation": -30.0}, {"in_plane": 10.0}])
def test_which_poses_the_renderings_reach(options: dict[str, Any]) -> None:
    """All that they show, and none that is tilted, or seen from below, by 20° more."""
    config, rng = replace(VIEWS, **options), np.random.default_rng(0)
    for _ in range(100):
        T = random_viewpoint(rng, config, np.zeros(3))
        turned = [transform(exp_so3(np.radians([0.0, 0.0, k * config.in_plane])), np.zeros(3)) @ T for k in (-1, 1)]
        assert reaches(config, T) and all(reaches(config, x) for x in turned)
        if abs(T[2, 2]) < 0.9:  # not from overhead, where a turn is another azimuth
            tilted = transform(exp_so3(np.radians([0.0, 0.0, config.in_plane + 20.0])), np.zeros(3)) @ T
            assert not reaches(config, tilted)
    below = np.radians(-20.0 + config.lowest_elevation)
    T = look_at(np.array([np.cos(below), 0.0, np.sin(below)]), 1.0, np.zeros(3))
    assert reaches(config, T) == (config.sphere == "full")


def test_no_two_samples_are_the_same() -> None:
    samples = SyntheticSamples(ASSETS, SyntheticConfig(viewpoints=VIEWS), black(), np.random.default_rng(2))
    assert len({samples.draw()[0].tobytes() for _ in range(100)}) == 100
    samples.close()


def test_every_appearance_option_changes_the_picture_and_not_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one view and one warp, so that nothing but the option can make a difference."""
    rng = np.random.default_rng(5)
    T, R = random_viewpoint(rng, VIEWS, np.zeros(3)), window_rotation(rng, CROP.focal, 45.0, 10.0)
    monkeypatch.setattr("fm_pose_core.objects.samples.random_viewpoint", lambda *_: T)
    monkeypatch.setattr("fm_pose_core.objects.samples.window_rotation", lambda *_: R)

    def first(seed: int, **options: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        config = SyntheticConfig(viewpoints=VIEWS, appearance=AppearanceConfig(**options))
        samples = SyntheticSamples(ASSETS, config, black(), np.random.default_rng(seed))
        image, corners, *_, points = samples.draw()
        samples.close()
        return image, corners, points

    image, corners, points = first(5)
    for ours, theirs in zip(first(6), (image, corners, points), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for option, strength in {
        "light": 1.0,
        "repaint": 1.0,
        "occluders": 1.0,
        "colour": 1.0,
        "blur": 3.0,
        "motion": 6.0,
        "coarse": 3.0,
        "noise": 20.0,
        "border": 1.0,
    }.items():
        changes = []
        for seed in range(5, 9):  # a strength is drawn up to the given one
            changed, label, seen = first(seed, **{option: strength})
            changes.append(np.abs(changed.astype(int) - image).mean())
            np.testing.assert_array_equal(label, corners, option)
            shown = ~np.isnan(seen[:, 0])  # an occluder hides some
            np.testing.assert_array_equal(seen[shown], points[shown], option)
        assert max(changes) > 0.2, option


def test_objects_occlude_each_other() -> None:
    """A red object in front of a white one: its pixels are red, and the points behind it are hidden. Alone, an object
    has the occluders of random shapes."""
    around, rng = black(), np.random.default_rng(0)
    white = replace(MESH, colours=np.full_like(MESH.colours, 255))
    red = np.zeros((CROP.size, CROP.size, 4), np.uint8)
    red[40:90, 40:90] = (200, 0, 0, 255)
    config = SyntheticConfig(viewpoints=VIEWS, appearance=AppearanceConfig(occluders=1.0, cutouts=1.0))
    samples = SyntheticSamples(ObjectAssets(white, CORNERS, CROP), config, around, rng)
    alone = samples.draw()[0]
    assert not (alone[..., 0].astype(int) - alone[..., 2] > 100).any()
    around.add(1, red)
    hidden = 0
    for _ in range(20):
        image, *_, points = samples.draw()
        covered = image[..., 0].astype(int) - image[..., 2] > 100
        assert covered.any()
        centres = covered[8::16, 8::16].ravel()
        assert np.isnan(points[centres]).all()
        hidden += int(centres.sum())
    assert hidden > 20
    samples.close()


@pytest.mark.parametrize("cutouts", [0.0, 1.0])
def test_large_occluders_hide_a_side_of_the_object(cutouts: float) -> None:
    """Of drawn shapes and of other objects alike: more than half of an object is hidden much more often."""
    other = np.zeros((CROP.size, CROP.size, 4), np.uint8)
    other[40:90, 50:80] = (200, 0, 0, 255)

    def half_hidden(large: float) -> float:
        around, look = black(), AppearanceConfig(occluders=1.0, cutouts=cutouts, large=large)
        around.add(1, other)
        hidden, rng = [], np.random.default_rng(0)
        for _ in range(150):
            points = np.zeros((64, 3), np.float32)
            points.reshape(8, 8, 3)[[0, 1, 6, 7]] = np.nan  # the object: the middle of the window
            points.reshape(8, 8, 3)[:, [0, 1, 6, 7]] = np.nan
            around.finish(np.zeros((CROP.size, CROP.size, 3), np.uint8), points, 0, look, rng)
            hidden.append(np.isnan(points[:, 0]).sum() - 48)
        return float(np.mean(np.array(hidden) > 8))

    assert half_hidden(1.0) > 2 * half_hidden(0.0) > 0.0


def test_occluders_leave_a_tenth_of_an_object() -> None:
    """Of one that shows in 10 cells, at the window's corner: at least one stays visible, and sometimes only one does.
    What the labels call visible has nothing painted over it."""
    around, look = black(), AppearanceConfig(occluders=1.0, large=1.0, border=1.0)
    left, rng = [], np.random.default_rng(0)
    for _ in range(300):
        points = np.full((64, 3), np.nan, np.float32)
        points[:10] = 0.0
        image = around.finish(np.full((CROP.size, CROP.size, 3), 77, np.uint8), points, 0, look, rng)
        left.append(np.isfinite(points[:, 0]).sum())
        assert (image[8::16, 8::16].reshape(-1, 3)[np.isfinite(points[:, 0])] > 77 / 2).all()
    assert min(left) == 1 and max(left) == 10


def test_beyond_the_border_there_is_nothing() -> None:
    """Black, as where the window reaches out of the camera's image, at most 0.4 of the side deep; any side."""
    config = SyntheticConfig(viewpoints=VIEWS, appearance=AppearanceConfig(border=1.0, colour=1.0, noise=10.0))
    around = Surroundings(Backgrounds([], CROP.size, np.random.default_rng(0)))
    samples = SyntheticSamples(ASSETS, config, around, np.random.default_rng(1))
    beyond = []
    for _ in range(60):
        image, *_, points = samples.draw()
        black = (image == 0).all(-1)
        beyond.append(black)
        assert np.isnan(points[black[8::16, 8::16].ravel()]).all()
    share = np.mean(beyond, 0)
    sides = (share[0, 64], share[-1, 64], share[64, 0], share[64, -1])
    assert min(sides) > 0.1 and share[64, 64] < 0.05 and 0.05 < share.mean() < 0.3
    samples.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> BopDataset:
    return BopDataset(write_rendered_bop(tmp_path_factory.mktemp("bop") / "box"))


@pytest.mark.parametrize(
    "config",
    [RealConfig(), RealConfig(plain=1.0), RealConfig(in_plane=30.0), RealConfig(novel_views=1.0)],
    ids=["paper", "plain", "in_plane", "novel_views"],
)
def test_a_pair_shows_one_pose_over_one_background(dataset: BopDataset, config: RealConfig) -> None:
    views, colours = prepare_real_views(dataset, "test", dataset.instances("test"), MESH, CROP.patch(), np.zeros(3))
    assert all(v.trusted for v in views)
    assets = ObjectAssets(MESH, CORNERS, CROP, patch=CROP.patch(), views=views, colours=colours)
    pairs = PairSamples(assets, config, VIEWS, black(), np.random.default_rng(0))
    renderer = Renderer(MESH, CROP.K, CROP.size, CROP.size)
    for _ in range(6):
        real, synthetic, (corners,), *_, points, whole = pairs.draw()
        assert (~np.isnan(whole[:, 0])).sum() >= (~np.isnan(points[:, 0])).sum() >= 4
        pose = solve_pnp(CORNERS, corners.astype(float), CROP.K)
        direct, _ = renderer.render(pose.T_camera_object)
        inside, outside = direct[..., 3] == 255, direct[..., 3] == 0
        assert pose.reprojection_error < 1.0  # a rescaled picture is not quite a nearer object
        # The CAD rendering at that pose.
        assert np.abs(synthetic[inside].astype(int) - direct[inside][:, :3]).mean() < 12.0
        assert np.abs(real[outside].astype(int) - synthetic[outside]).mean() < 1.0
        ratio = real[inside].astype(float).mean() / synthetic[inside].mean()
        assert ratio == pytest.approx(0.8, abs=0.04)  # the photographs are darker by a fifth: real stays real
    pairs.close()
    renderer.close()


def test_photo_colours_fill_what_no_photo_shows(dataset: BopDataset) -> None:
    _, colours = prepare_real_views(dataset, "test", dataset.instances("test")[:2], MESH, CROP.patch(), np.zeros(3))
    unseen = np.isnan(colours[..., 0]).all(0)
    assert unseen.any()
    filled = photo_colours(colours, MESH.colours)
    assert filled
    for i, vertex_colours in filled:
        seen = ~np.isnan(colours[i, :, 0])
        # Colours blur at the edges of the box.
        assert np.abs(vertex_colours[seen].astype(float) - 0.8 * MESH.colours[seen]).mean() < 15.0
        assert (vertex_colours[unseen].std(0) > 0).all()  # not one flat colour: the CAD colours after a linear map


def test_backgrounds_never_repeat() -> None:
    backgrounds = Backgrounds([], 128, np.random.default_rng(0))
    assert len({backgrounds.draw().tobytes() for _ in range(100)}) == 100


def test_backgrounds_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder with images"):
        read_folder(tmp_path)
    (tmp_path / "deeper").mkdir()
    cv2.imwrite(str(tmp_path / "deeper" / "green.png"), np.full((90, 120, 3), (0, 200, 0), np.uint8))
    background = Backgrounds(read_folder(tmp_path), 128, np.random.default_rng(0)).draw()
    assert background.shape == (128, 128, 3)
    assert background[..., 1].min() > 100 and background[..., 0].max() == 0


def test_in_the_window_of_a_second_look_objects_have_one_size(dataset: BopDataset) -> None:
    """Within a quarter, at any distance; renderings, novel views and photographs alike. The label is the projection by
    a camera of that zoom."""
    patch = CROP.patch(1.5)
    views, colours = prepare_real_views(dataset, "test", dataset.instances("test"), MESH, patch, np.zeros(3))
    assets = ObjectAssets(MESH, CORNERS, CROP, fill=0.4, zoomed=1.0, patch=patch, views=views, colours=colours)
    far = replace(VIEWS, distance=(0.3, 1.2))
    rng, around = np.random.default_rng(3), black()
    synthetic = SyntheticSamples(assets, SyntheticConfig(viewpoints=far), around, rng)
    pairs = [PairSamples(assets, RealConfig(novel_views=n), far, around, rng) for n in (0.0, 1.0)]
    diagonal = np.linalg.norm(CORNERS[0] - CORNERS[-1])
    for samples, image_at, corners_at in ((synthetic, 0, 1), *((x, 1, 2) for x in pairs)):
        sizes = []
        for _ in range(40):
            sample = samples.draw()
            (corners,) = sample[corners_at].astype(float)
            spans = np.linalg.norm(corners[:, None] - corners, axis=-1)
            sizes.append(spans.max() / (CROP.focal * diagonal / 0.4))
            shown = (sample[image_at] > 0).any(-1)  # on black
            v, u = np.nonzero(shown)
            inside = np.clip(corners, 0, CROP.size - 1)
            assert abs(u.min() - inside[:, 0].min()) < 2.5 and abs(v.max() - inside[:, 1].max()) < 2.5
        assert min(sizes) > 0.6 and max(sizes) < 1.4 and 0.8 < np.median(sizes) < 1.2
        samples.close()
