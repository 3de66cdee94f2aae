"""Rays give the picture that OpenGL gives."""

import numpy as np
import pytest

pytest.importorskip("embreex", reason="needs embreex (pip install '.[refine]')")

from rendered_bop import box_mesh

from fm_pose_core.geometry import apply, exp_so3, project, transform
from fm_pose_core.rendering.raycaster import Raycaster

K = np.array([[300.0, 0.0, 63.5], [0.0, 310.0, 60.0], [0.0, 0.0, 1.0]])
POSES = {
    "middle": transform(exp_so3(np.array([0.5, -0.8, 0.3])), np.array([0.0, 0.0, 0.5])),
    "border": transform(exp_so3(np.array([-0.5, 0.2, 1.3])), np.array([0.09, -0.08, 0.45])),
    "larger": transform(exp_so3(np.array([0.5, -0.8, 0.3])), np.array([0.0, 0.0, 0.5])) @ np.diag([1.3, 1.3, 1.3, 1.0]),
    "near": transform(exp_so3(np.array([0.1, 0.2, 0.3])), np.array([0.01, 0.01, 0.12])),
}


@pytest.mark.parametrize("T", POSES.values(), ids=POSES)
def test_it_draws_what_the_renderer_draws(T: np.ndarray) -> None:
    pytest.importorskip("pyrender", reason="compares with pyrender (pip install '.[train]')")
    from fm_pose_core.rendering.renderer import Renderer

    mesh = box_mesh()
    renderer, rays = Renderer(mesh, K, 128, 120), Raycaster(mesh, K, 128, 120)
    (wanted, far), (got, depth) = renderer.render(T), rays.render(T)
    renderer.close()
    assert np.abs(wanted[..., 3].astype(int).sum() - got[..., 3].astype(int).sum()) < 0.003 * wanted[..., 3].sum()
    inside = (wanted[..., 3] == 255) & (got[..., 3] == 255)
    assert inside.sum() > 1000 and np.abs(wanted[inside].astype(int) - got[inside]).mean() < 1.0
    assert np.abs(wanted[..., 3].astype(int) - got[..., 3]).max() <= 128  # two of four samples
    off = np.abs(depth[inside] - far[inside])
    assert np.median(off) < 1e-3 and off.max() < 5e-3  # metres; the depth buffer is not antialiased


def test_depth_is_that_of_the_surface() -> None:
    """Of a square that faces the camera."""
    mesh = box_mesh()
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.5]))
    _, depth = Raycaster(mesh, K, 128, 120).render(T)
    front = 0.5 - 0.025
    assert set(np.unique(depth[depth > 0].round(5))) == {np.float32(front).round(5)}
    u, v = project(K, apply(T, np.array([[0.05, 0.035, -0.025]])))[0]
    columns = np.nonzero(depth.any(0))[0]
    assert abs(columns.max() + 0.5 - u) <= 0.75 and abs(np.nonzero(depth.any(1))[0].max() + 0.5 - v) <= 0.75


@pytest.mark.parametrize("away", [(0.0, 0.0, -0.5), (5.0, 0.0, 0.5)], ids=["behind", "beside"])
def test_what_is_not_before_the_camera_is_not_drawn(away: tuple[float, float, float]) -> None:
    rgba, depth = Raycaster(box_mesh(), K, 128, 120).render(transform(np.eye(3), np.array(away)))
    assert not rgba.any() and not depth.any()
