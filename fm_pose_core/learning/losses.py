"""The loss of Eq. 1: L = L_hS + β L_hR + γ L_g, and which network receives which gradient.

| loss | images | path | gradient reaches |
|---|---|---|---|
| L_hS, Eq. 2 | x_s of T^S (and x_m, the synthetic halves of T^M) | h(f(x_s)) | f, h |
| L_hR, Eq. 3 | x_r of T^R | h(g(f(x_r))) | f, g, h |
| L_g, Eq. 4 | pairs (x_r, x_m) of T^M | g(f(x_r)) − f(x_m) | f, g; through f(x_m) too unless `target_gradient` is off |

| L_u (beyond the paper) | all | error output of h | that output alone |
| L_p (beyond the paper, an option) | all | points(f(x_s)), points(g(f(x_r))) | f, g |

Sums over the training set become means over a batch; sums over coordinates and features stay. With several cells per
image h's prediction is the weighted mean of their votes, and Eq. 4 is averaged evenly over cells. L_u teaches h to
expect its error. L_p asks each cell's features which point of the object it shows, if any: a dense task beside the
pose, which f learns much sooner; its layer is dropped after training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fm_pose_core.config import knob
from fm_pose_core.errors import expect
from fm_pose_core.learning.networks import FeatureMapping

POINT_SCALE = 0.05  # metres: about half the size of a hand-held object
METHODS = ("synthetic_only", "real_only", "without_mapping", "feature_mapping")


@dataclass(frozen=True)
class LossConfig:
    beta: float = knob(1.0, "β of Eq. 1, weight of L_hR.", 0.0, 1e6)
    gamma: float = knob(0.2, "γ of Eq. 1, weight of L_g.", 0.0, 1e6)
    target_gradient: bool = knob(
        True, "Whether L_g also moves the features of the synthetic image (the paper trains all jointly)."
    )
    feature_variance: float = knob(
        0.0,
        "0: L_g as in Eq. 4. Else L_g is relative: the share of the synthetic features' variance that the mapping leaves, times this.",
        0.0,
        1e6,
    )
    points: float = knob(0.0, "Weight of L_p, beyond the paper: the object's surface point in each cell.", 0.0, 1e6)
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
        cells = model.h.anchors.shape[1]
        expect(
            config.points == 0 or cells > 1,
            "loss.points",
            f"0 for {model.config.extractor}, which has no cells (L_p)",
            config.points,
        )
        self.model, self.config, self.method = model, config, method
        # For L_p alone: which point of the object a cell shows, and whether it shows one.
        self.surface = nn.Linear(model.feature_size, 4) if config.points > 0 else None

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: x_s, x_m, x_r (N, S, S, C) and y_s, y_r (N, P, dims) in the units of the model's Contract; absent ones
        are left out. The M images x_m belong to the first M of x_r. Returns L_hS, L_hR, L_g as far as the batch has
        what they need, L_u, and their weighted sum L."""
        f, g, h = self.model.f, self.model.g, self.model.h
        names = [k for k in ("x_s", "x_m", "x_r") if k in batch]
        images = torch.cat([batch[k] for k in names])
        x = FeatureMapping.normalise(images).contiguous(memory_format=torch.channels_last)
        features = dict(zip(names, f(x).split([len(batch[k]) for k in names]), strict=True))
        losses: dict[str, Tensor] = {}
        uncertain: list[Tensor] = []
        points: list[tuple[Tensor, Tensor]] = []
        synthetic = [k for k in ("x_s", "x_m") if k in features]
        if synthetic:
            y = torch.cat([batch["y_s"] if k == "x_s" else batch["y_r"][: len(batch[k])] for k in synthetic])
            losses["L_hS"], error = self.pose_error(h(torch.cat([features[k] for k in synthetic])), y)
            uncertain.append(error)
            if self.surface is not None:
                points += [(features[k], batch["p_s" if k == "x_s" else "p_m"]) for k in synthetic]
        if "x_r" in features:
            mapped = g(features["x_r"])
            losses["L_hR"], error = self.pose_error(h(mapped), batch["y_r"])
            uncertain.append(error)
            if self.surface is not None:
                points.append((mapped, batch["p_r"]))
            if self.method == "feature_mapping" and "x_m" in features:
                target = features["x_m"] if self.config.target_gradient else features["x_m"].detach()
                losses["L_g"] = self.mapping_error(mapped[: len(target)].float(), target.float())
        losses["L_u"] = torch.cat(uncertain).mean()
        if self.surface is not None:
            losses["L_p"] = self.point_error(torch.cat([x for x, _ in points]), torch.cat([p for _, p in points]))
        weights = {
            "L_p": self.config.points,
            "L_hS": 1.0,
            "L_hR": self.config.beta,
            "L_g": self.config.gamma,
            "L_u": 1.0,
        }
        losses["L"] = sum((weights[k] * v for k, v in losses.items()), torch.zeros(()))
        return losses

    def pose_error(self, prediction: tuple[Tensor, Tensor, Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """‖h(…) − y‖² summed over the points (Eq. 2), averaged over the batch; and, for each image (N,), the squared
        error of the expected log error. y: (N, P, dims) in the contract's units."""
        votes, weights, log_error = prediction
        contract = self.model.contract
        target = (y - contract.shift) / contract.scale
        mean = (weights[..., None] * votes).sum(1)  # (N, P, dims)
        squared = (mean - target).square().sum(-1)  # (N, P)
        spread = squared.detach() / contract.dims
        spread = spread if log_error.shape[1] > 1 else spread.mean(1, keepdim=True)
        actual = 0.5 * spread.clamp_min(1e-6).log()  # log RMS of a coordinate
        if self.config.huber > 0:
            d = self.config.huber
            distance = squared.clamp_min(1e-12).sqrt()
            squared = torch.where(distance < d, squared, 2.0 * d * distance - d * d)
        return squared.sum(1).mean(), (log_error - actual).square().mean(1)

    def mapping_error(self, mapped: Tensor, target: Tensor) -> Tensor:
        """‖g(f(x_r)) − f(x_s)‖² (Eq. 4), averaged over the batch and evenly over the cells. mapped, target: (N, L,
        D)."""
        error = (mapped - target).square().sum(-1).mean()
        if self.config.feature_variance == 0:
            return error
        variance = target.detach().var(0, unbiased=False).sum(-1).mean()
        return error * (self.config.feature_variance / (variance + 1e-6))

    def point_error(self, features: Tensor, points: Tensor) -> Tensor:
        """Whether a cell shows the object (cross entropy), and which point if so (in units of POINT_SCALE, absolute
        error summed over x, y, z). features: (N, L, D). points: (N, L, 3) metres, object frame, NaN where there is
        none."""
        assert self.surface is not None
        predicted = self.surface(features).float()
        seen = ~points[..., 0].isnan()
        error = (predicted[..., :3] - points.nan_to_num() / POINT_SCALE).abs().sum(-1)
        presence = nn.functional.binary_cross_entropy_with_logits(predicted[..., 3], seen.float())
        return presence + (error * seen).sum() / seen.sum().clamp_min(1)
