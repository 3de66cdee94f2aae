"""Which domain features come from: what adversarial methods ask a classifier."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.learning.losses import LossConfig, Term
from fm_pose_core.learning.networks import FeatureMapping


class DomainClassifier(nn.Sequential):
    """Features (…, D) -> logit (…): above 0 for features of real images."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1), nn.Flatten(-2))


class DomainTerm(Term):
    """L_d: a term with a classifier of its own."""

    name, knobs = "L_d", ("domain",)

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        self.classifier = DomainClassifier(model.f.feature_size)

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.domain


def domain_error(synthetic: Tensor, real: Tensor) -> Tensor:
    """Mean cross entropy of logits, each domain counted alike."""
    of_synthetic = F.binary_cross_entropy_with_logits(synthetic, torch.zeros_like(synthetic))
    return 0.5 * (of_synthetic + F.binary_cross_entropy_with_logits(real, torch.ones_like(real)))
