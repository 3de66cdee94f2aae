"""What is done to a rendering's look: noise."""

import numpy as np
import pytest

from fm_pose_core.rendering.appearance import AppearanceConfig, jitter


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
