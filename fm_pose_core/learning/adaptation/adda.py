"""Tzeng, Hoffman, Saenko, Darrell: Adversarial Discriminative Domain Adaptation (ADDA, CVPR 2017), the paper's [46].
After the pretraining f_s and h stay as they are. f, a copy of f_s, learns that a discriminator takes its features of
real images for synthetic ones. The labels of real images are not used."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fm_pose_core.learning.adaptation.domains import DomainClassifier, domain_error
from fm_pose_core.learning.adaptation.method import Method, both
from fm_pose_core.learning.losses import LossConfig, Seen, Term
from fm_pose_core.learning.networks import FeatureMapping


class Adversary(Term):
    """L_d: the discriminator's cross entropy, plus that of f with the labels turned round (their Eq. 7 and 8). The
    first moves the discriminator alone, the second f alone, in the same step."""

    name, knobs = "L_d", ("domain",)

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        self.discriminator = DomainClassifier(model.f.feature_size)

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.domain

    def forward(self, seen: Seen) -> Tensor | None:
        if seen.domains is None:
            return None
        synthetic, real = seen.domains
        told = domain_error(self.discriminator(synthetic.detach()), self.discriminator(real.detach()))
        fixed = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        logits = torch.func.functional_call(self.discriminator, fixed, (real,))
        return told + F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


ADDA = Method("adda", both, (Adversary,), unshared=True, frozen=("f_s", "h"))
