"""The loss of Eq. 1: L = L_hS + β L_hR + γ L_g, and which network receives which gradient.

| loss | images | path | gradient reaches |
|---|---|---|---|
| L_hS, Eq. 2 | x_s of T^S (and x_m, the synthetic halves of T^M) | h(f(x_s)) | f, h |
| L_hR, Eq. 3 | x_r of T^R | h(g(f(x_r))) | f, g, h |
| L_g, Eq. 4 | pairs (x_r, x_m) of T^M | g(f(x_r)) − f(x_m) | f, g; through f(x_m) too unless `target_gradient` is off |

| L_u (beyond the paper) | all | error output of h | that output alone |

Sums over the training set become means over a batch; sums over coordinates and features stay. With several cells per image
h's prediction is the weighted mean of their votes, and Eq. 4 is averaged evenly over cells. L_u teaches h to expect its error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fm_pose_core.config import knob
from fm_pose_core.networks import FeatureMapping

METHODS = ("synthetic_only", "real_only", "without_mapping", "feature_mapping")


@dataclass(frozen=True)
class LossConfig:
    beta: float = knob(1.0, "β of Eq. 1, weight of L_hR.", 0.0, 1e6)
    gamma: float = knob(0.2, "γ of Eq. 1, weight of L_g.", 0.0, 1e6)
    target_gradient: bool = knob(True, "Whether L_g also moves the features of the synthetic image (the paper trains all jointly).")
    feature_variance: float = knob(
        0.0,
        "0: L_g as in Eq. 4. Else L_g is relative: the share of the synthetic features' variance that the mapping leaves, times this.",
        0.0,
        1e6,
    )
    huber: float = knob(
        0.0,
        "0: squared error as in Eq. 2 and 3. Else beyond this distance (in half windows) the error of a corner grows linearly.",
        0.0,
        10.0,
    )


class Objective(nn.Module):
    """forward(batch) gives the named losses. Wrapped as a whole for distributed training."""

    def __init__(self, model: FeatureMapping, config: LossConfig, method: str) -> None:
        super().__init__()
        self.model, self.config, self.method = model, config, method

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: x_s, x_m, x_r (N, S, S, 3) uint8 and y_s, y_r (N, 8, 2) in window pixels; absent ones are left out.
        Returns L_hS, L_hR, L_g as far as the batch has what they need, L_u, and their weighted sum L."""
        f, g, h = self.model.f, self.model.g, self.model.h
        names = [k for k in ("x_s", "x_m", "x_r") if k in batch]
        images = torch.cat([batch[k] for k in names])
        x = FeatureMapping.normalise(images).contiguous(memory_format=torch.channels_last)
        features = dict(zip(names, f(x).split([len(batch[k]) for k in names]), strict=True))
        losses: dict[str, Tensor] = {}
        uncertain: list[Tensor] = []
        synthetic = [k for k in ("x_s", "x_m") if k in features]
        if synthetic:
            y = torch.cat([batch["y_s" if k == "x_s" else "y_r"] for k in synthetic])
            losses["L_hS"], error = self.pose_error(h(torch.cat([features[k] for k in synthetic])), y)
            uncertain.append(error)
        if "x_r" in features:
            mapped = g(features["x_r"])
            losses["L_hR"], error = self.pose_error(h(mapped), batch["y_r"])
            uncertain.append(error)
            if self.method == "feature_mapping":
                target = features["x_m"] if self.config.target_gradient else features["x_m"].detach()
                losses["L_g"] = self.mapping_error(mapped.float(), target.float())
        losses["L_u"] = torch.cat(uncertain).mean()
        weights = {"L_hS": 1.0, "L_hR": self.config.beta, "L_g": self.config.gamma, "L_u": 1.0}
        losses["L"] = sum((weights[k] * v for k, v in losses.items()), torch.zeros(()))
        return losses

    def pose_error(self, prediction: tuple[Tensor, Tensor, Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """‖h(…) − y‖² summed over the corners (Eq. 2), averaged over the batch; and, for each image (N,), the squared error of the
        expected log error. y: (N, 8, 2) window pixels."""
        votes, weights, log_error = prediction
        half = self.model.size / 2
        target = (y - (half - 0.5)) / half
        mean = (weights[..., None, None] * votes).sum(1)  # (N, 8, 2)
        squared = (mean - target).square().sum(-1)  # (N, 8)
        actual = 0.5 * (squared.detach().mean(1) / 2).clamp_min(1e-6).log()  # log RMS of a coordinate
        if self.config.huber > 0:
            d = self.config.huber
            distance = squared.clamp_min(1e-12).sqrt()
            squared = torch.where(distance < d, squared, 2.0 * d * distance - d * d)
        return squared.sum(1).mean(), (log_error - actual).square()

    def mapping_error(self, mapped: Tensor, target: Tensor) -> Tensor:
        """‖g(f(x_r)) − f(x_s)‖² (Eq. 4), averaged over the batch and evenly over the cells. mapped, target: (N, L, D)."""
        error = (mapped - target).square().sum(-1).mean()
        if self.config.feature_variance == 0:
            return error
        variance = target.detach().var(0, unbiased=False).sum(-1).mean()
        return error * (self.config.feature_variance / (variance + 1e-6))
