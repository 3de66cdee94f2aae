"""The terms of Eq. 1."""

import torch
from torch import Tensor

from fm_pose_core.learning.losses.term import LossConfig, Seen, Term


class SyntheticPose(Term):
    """L_hS = ‖h(f(x_s)) − y_s‖² (Eq. 2)."""

    name, knobs = "L_hS", ("huber", "sure")

    def forward(self, seen: Seen) -> Tensor | None:
        x = seen.synthetic
        return (x.weights(self.config.sure) * x.loss.pose).mean() if x else None


class RealPose(Term):
    """L_hR = ‖h(g(f(x_r))) − y_r‖² (Eq. 3)."""

    name, knobs = "L_hR", ("beta", "huber", "sure")

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.beta

    def forward(self, seen: Seen) -> Tensor | None:
        x = seen.real
        return (x.weights(self.config.sure) * x.loss.pose).mean() if x else None


class MappedFeatures(Term):
    """L_g = ‖g(f(x_r)) − f(x_m)‖² (Eq. 4), for the pairs; averaged over the batch and evenly over the cells.

    Relative to the features' variance (`feature_variance`), the cells in which x_m shows the object, where the labels
    say so, count as much as all others together, and the variance is theirs. The others are many, show the same
    background in both images, and could hold any variance."""

    name, knobs = "L_g", ("gamma", "target_gradient", "feature_variance")

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.gamma

    def forward(self, seen: Seen) -> Tensor | None:
        if seen.mapped is None or "x_m" not in seen.features:
            return None
        target = seen.features["x_m"].float()  # (M, L, D), which belong to the first M of x_r
        target = target if self.config.target_gradient else target.detach()
        error = (seen.mapped[: len(target)].float() - target).square().sum(-1)
        if self.config.feature_variance == 0:
            return error.mean()
        shown = self._shown(seen, target)
        parts = [(error * w).sum() / w.sum() for w in (shown, 1.0 - shown) if w.any()]
        return self.config.feature_variance * torch.stack(parts).mean() / _variance(target.detach(), shown)

    @staticmethod
    def _shown(seen: Seen, target: Tensor) -> Tensor:
        """(M, L): 1 for the cells that show the object, 0 for the others; 1 where nobody says."""
        points = seen.synthetic.labels.get("p") if seen.synthetic else None  # those of x_m come last
        if points is None or points.shape[1] != target.shape[1]:
            return target.new_ones(target.shape[:2])
        return (~points[-len(target) :, :, 0].isnan()).float()


def _variance(features: Tensor, shown: Tensor) -> Tensor:
    """Of (M, L, D) over the images, summed over coefficients: an unbiased mean over the cells, of those that are shown
    (M, L); infinite where no cell is shown twice."""
    weight, freedom = shown[..., None], (shown.sum(0) - 1).clamp_min(0).sum()
    mean = (weight * features).sum(0) / weight.sum(0).clamp_min(1)
    variance = (weight * (features - mean).square()).sum() / freedom.clamp_min(1)
    return torch.where(freedom > 0, variance + 1e-6, torch.inf)
