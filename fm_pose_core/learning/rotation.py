"""What errors of corners and surface points do to the pose that PnP makes of them, to first order: one Gauss-Newton
step of `objects.reprojection.fit` and its weights, from the true pose. It is linear in the errors, so it can be a loss
(Liu et al., Linear-Covariance Loss for End-to-End Learning of 6D Pose Estimation, ICCV 2023, likewise step from the
true pose)."""

import torch
from torch import Tensor

UNIT = 0.05  # metres: of a shift, so that it is as large as a turn in radians


def project(points: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """points (N, M, 3) of the object and camera (N, 3, 4), K [R t] -> pixels (N, M, 2), and how they move with the
    points (N, M, 2, 3)."""
    q = points @ camera[:, :, :3].transpose(1, 2) + camera[:, None, :, 3]
    z = q[..., 2:].clamp_min(1e-3)
    pixels = q[..., :2] / z
    return pixels, (camera[:, None, :2, :3] - pixels[..., None] * camera[:, None, 2:, :3]) / z[..., None]


def turn(errors: Tensor, variance: Tensor, points: Tensor, motion: Tensor, centre: Tensor) -> Tensor:
    """(N, 3) radians, about the object's axes: how far the pose turns that fits best where the images of `points`
    (N, M, 3), metres, are off by `errors` (N, M, 2), pixels. variance (N, M): of a measurement, pixels squared,
    infinite where there is none. motion (N, M, 2, 3): see `project`. centre (N, 3): what the object turns about. The
    gradient reaches the errors alone."""
    with torch.no_grad():
        arms = (points - centre[:, None])[:, :, None].expand_as(motion)
        J = torch.cat([motion * UNIT, torch.linalg.cross(arms, motion)], -1)  # a · (w × r) = w · (r × a)
        weighted = (J / variance[..., None, None]).flatten(1, 2).transpose(1, 2)
        H = weighted @ J.flatten(1, 2)
        H = H + 1e-9 * torch.diag_embed(H.diagonal(dim1=1, dim2=2))
        gain = torch.linalg.solve(H, weighted)[:, 3:]
    return (gain @ errors.flatten(1)[..., None]).squeeze(-1)
