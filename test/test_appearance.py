"""What is done to a rendering's look: noise, motion, the camera's pixels."""

import cv2
import numpy as np
import pytest

from fm_pose_core.rendering.appearance import AppearanceConfig, jitter, streak


@pytest.mark.parametrize("size", [128, 512, 513, 1024])
def test_noise_of_every_size(size: int) -> None:
    grey = np.full((size, size, 3), 128, np.uint8)
    rng = np.random.default_rng(3)
    strengths = []
    for _ in range(20):
        noise = jitter(grey, rng, AppearanceConfig(noise=12.0)).astype(float) - 128.0
        assert noise.shape == grey.shape and abs(noise.mean()) < 0.2
        strengths.append(noise.std())
    assert max(strengths) < 12.5 and 4.0 < np.mean(strengths) < 8.0  # uniform from 0 to 12


@pytest.mark.parametrize("length", [0.0, 0.6, 3.0, 7.5, 20.0])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_a_streak_spreads_along_its_direction_and_moves_nothing(length: float, angle: float) -> None:
    kernel = streak(length, angle).astype(float)
    reach = len(kernel) // 2
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    assert kernel.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    assert (kernel * across**2).sum() < 0.3
    # That of an even distribution over the length, and of a pixel.
    assert (kernel * along**2).sum() == pytest.approx(length**2 / 12, abs=0.3 + 0.12 * length)


@pytest.mark.parametrize("size", [128, 129])
def test_coarse_pixels_and_motion_take_detail_and_move_nothing(size: int) -> None:
    v, u = np.mgrid[:size, :size]
    disc = (np.hypot(u - 0.4 * size, v - 0.55 * size) < 20.0).astype(np.uint8)
    checks = (u // 2 + v // 2) % 2 * 255
    image, fine = (np.repeat(x.astype(np.uint8)[..., None], 3, 2) for x in (255 * disc, checks))
    rng = np.random.default_rng(0)
    for config in (AppearanceConfig(coarse=3.0), AppearanceConfig(motion=8.0)):
        details = []
        for _ in range(10):
            seen = jitter(image, rng, config)
            assert seen.shape == image.shape
            moments = cv2.moments(seen[..., 0])
            assert moments["m10"] / moments["m00"] == pytest.approx(u[disc > 0].mean(), abs=0.1)
            assert moments["m01"] / moments["m00"] == pytest.approx(v[disc > 0].mean(), abs=0.1)
            details.append(jitter(fine, rng, config).std() / fine.std())
        assert min(details) < 0.5 and max(details) <= 1.0
