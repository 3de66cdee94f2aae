from collections.abc import Callable

import numpy as np
import pytest

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array
from fm_pose_core.objects.crop import Crop
from fm_pose_core.types import Camera, Window

K = np.array([[420.0, 0.0, 330.5], [0.0, 430.0, 236.0], [0.0, 0.0, 1.0]])


def plumb_bob(x: Array, y: Array) -> tuple[Array, Array]:
    k1, k2, p1, p2, k3 = COEFFICIENTS["plumb_bob"]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def rational_polynomial(x: Array, y: Array) -> tuple[Array, Array]:
    k1, k2, p1, p2, k3, k4, k5, k6 = COEFFICIENTS["rational_polynomial"]
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def equidistant(x: Array, y: Array) -> tuple[Array, Array]:
    k1, k2, k3, k4 = COEFFICIENTS["equidistant"]
    r = np.hypot(x, y)
    theta = np.arctan(r)
    scale = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8) / r
    return x * scale, y * scale


COEFFICIENTS = {
    "plumb_bob": [-0.28, 0.09, 0.0007, -0.0004, -0.01],
    "rational_polynomial": [0.4, -0.1, 0.0005, -0.0003, 0.02, 0.7, -0.05, 0.03],
    "equidistant": [-0.03, 0.01, -0.005, 0.001],
}
FORMULAS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "plumb_bob": plumb_bob,
    "rational_polynomial": rational_polynomial,
    "equidistant": equidistant,
}
MODELS = ["ideal", *COEFFICIENTS]


def camera_of(model: str) -> Camera:
    if model == "ideal":
        return Camera(K, 640, 480)
    return Camera(K, 640, 480, np.array(COEFFICIENTS[model]), model)


def true_pixels(model: str, points: Array) -> Array:
    """The distortion models written out from their definitions."""
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    if model != "ideal":
        x, y = FORMULAS[model](x, y)
    return np.column_stack([K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]])


@pytest.mark.parametrize("model", MODELS)
def test_camera_projects_as_its_model_says_and_back(model: str) -> None:
    points = np.random.default_rng(1).uniform([-0.5, -0.4, 1.0], [0.5, 0.4, 1.5], (50, 3))
    camera = camera_of(model)
    pixels = camera.pixels(points)
    np.testing.assert_allclose(pixels, true_pixels(model, points), atol=1e-6)
    np.testing.assert_allclose(camera.rays(pixels), points / points[:, 2:], atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_a_cameras_magnification_is_the_slope_of_its_pixels(model: str) -> None:
    rng, camera = np.random.default_rng(2), camera_of(model)
    rays = np.column_stack([rng.uniform([-0.5, -0.4], [0.5, 0.4], (20, 2)), np.ones(20)])
    step = 1e-3 * rng.normal(size=(20, 2))
    moved = rays + np.column_stack([step, np.zeros(20)])
    expected = camera.pixels(moved) - camera.pixels(rays)
    np.testing.assert_allclose((camera.magnification(rays) @ step[..., None])[..., 0], expected, atol=5e-3)


@pytest.mark.parametrize("model", MODELS)
def test_crop_agrees_with_direct_projection(model: str) -> None:
    """Spots painted where 3D points project appear in the window where the virtual camera sees the points."""
    camera, crop = camera_of(model), Crop(128, 400.0)
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[:480, :640].astype(np.float64)
    for _ in range(12):
        middle = rng.uniform([-0.45, -0.35, 1.0], [0.45, 0.35, 1.0])
        point = middle + np.array([*rng.uniform(-0.08, 0.08, 2), 0.0])
        u, v = true_pixels(model, point[None])[0]
        spot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.5**2))
        window = Window(*true_pixels(model, middle[None])[0])

        pixels, R_camera_window = crop.cut(np.rint(spot).astype(np.uint8), camera, window)

        seen = crop.to_window(point[None], R_camera_window)[0]
        y, x = np.mgrid[:128, :128]
        weight = pixels.astype(np.float64)
        np.testing.assert_allclose(
            [(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()], seen, atol=0.1
        )
        np.testing.assert_allclose(crop.to_image(seen[None], camera, R_camera_window)[0], [u, v], atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_window_looks_at_its_centre(model: str) -> None:
    camera, crop = camera_of(model), Crop(128, 400.0)
    point = np.array([[0.3, -0.2, 1.1]])
    R = crop.rotation(camera, Window(*true_pixels(model, point)[0]))
    np.testing.assert_allclose(crop.to_window(point, R)[0], [63.5, 63.5], atol=0.5)


def test_window_is_black_outside_of_the_image() -> None:
    pixels, _ = Crop(64, 400.0).cut(np.full((480, 640, 3), 200, np.uint8), camera_of("ideal"), Window(0.0, 0.0))
    assert pixels.shape == (64, 64, 3)
    assert (pixels[:28, :28] == 0).all() and (pixels[36:, 36:] == 200).all()


def test_rule_fits_the_nearest_object() -> None:
    crop = Crop.around(diameter=0.2, nearest=0.5, margin=1.25, size=100)
    assert crop.focal * 0.2 / 0.5 == pytest.approx(100 / 1.25)


def test_refusals() -> None:
    with pytest.raises(InputError, match="crop"):
        Crop(0, 100.0)
    with pytest.raises(InputError, match="640x480"):
        Crop(64, 400.0).cut(np.zeros((100, 100, 3), np.uint8), camera_of("ideal"), Window(0.0, 0.0))


@pytest.mark.parametrize("model", ["ideal", "plumb_bob"])
def test_a_fine_image_is_averaged_not_skipped(model: str) -> None:
    """A camera of four times the resolution: the window shows the same smooth scene, and a pattern of single pixels
    becomes grey."""
    crop = Crop(128, 430.0)
    coarse = camera_of(model)
    K4 = np.diag([4.0, 4.0, 1.0]) @ K
    fine = Camera(K4, 2560, 1920, coarse.distortion, coarse.distortion_model)
    v, u = np.mgrid[:1920, :2560]
    smooth = (128 + 60 * np.sin(u / 130.0) + 60 * np.cos(v / 90.0)).astype(np.uint8)
    window = Window(301.25, 208.5)
    want, _ = crop.cut(smooth[::4, ::4].copy(), coarse, window)
    got, _ = crop.cut(smooth, fine, Window(4 * window.u, 4 * window.v))
    assert np.abs(want.astype(int) - got).max() <= 3
    stripes = ((u % 2) * 255).astype(np.uint8)
    assert np.abs(crop.cut(stripes, fine, Window(1200.0, 900.0))[0].astype(int) - 127).max() <= 3
    assert crop.cut(smooth, fine, Window(-9000.0, -9000.0))[0].shape == (128, 128)


@pytest.mark.parametrize("size", [64, 66, 128])
@pytest.mark.parametrize("model", COEFFICIENTS)
def test_a_window_looks_up_its_pixels_where_they_lie(model: str, size: int) -> None:
    """Between the nodes, too, and at the edge of the image, where lenses bend most."""
    crop, camera = Crop(size, 200.0 * size / 64), camera_of(model)
    v, u = np.mgrid[:size, :size].astype(np.float64)
    pixels = np.stack([u, v], -1).reshape(-1, 2)
    for window in (Window(330.0, 240.0), Window(30.0, 30.0), Window(600.0, 450.0)):
        R = crop.rotation(camera, window)
        found = camera.lookup(R @ np.linalg.inv(crop.K), size)
        exact = crop.to_image(pixels, camera, R).reshape(size, size, 2)
        assert found.shape == exact.shape == (size, size, 2)
        inside = ((exact >= 0) & (exact <= [639, 479])).all(-1)
        off = np.abs(found - exact)[inside] * crop.focal / K[0, 0]  # in pixels of the window
        assert inside.sum() > 0.3 * size**2 and off.max() < 0.06


@pytest.mark.parametrize("model", MODELS)
def test_windows_are_cut_together_as_alone(model: str) -> None:
    crop, camera, window = Crop(64, 150.0), camera_of(model), Window(250.0, 200.0)  # the image is halved
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    R, views = crop.rotation(camera, window), crop.views(4)
    together = crop.cut_all(image, camera, [R @ view for view in views])
    assert together.shape == (4, 64, 64, 3)
    for k, view in enumerate(views):
        alone, _ = crop.cut(image, camera, window, view)
        assert np.abs(together[k].astype(int) - alone).max() <= 1
