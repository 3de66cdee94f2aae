"""Tzeng, Hoffman, Saenko, Darrell: Adversarial Discriminative Domain Adaptation (ADDA, CVPR 2017), the paper's [46].
After the pretraining f_s and h stay as they are. f, a copy of f_s, learns that a discriminator takes its features of
real images for synthetic ones. The labels of real images are not used."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fm_pose_core.learning.adaptation.domains import DomainTerm, domain_error
from fm_pose_core.learning.adaptation.method import Method, both
from fm_pose_core.learning.losses import Seen


class Adversary(DomainTerm):
    """L_d: the discriminator's cross entropy, plus that of f with the labels turned round (their Eq. 7 and 8). The
    first moves the discriminator alone, the second f alone, in the same step."""

    def forward(self, seen: Seen) -> Tensor | None:
        if seen.domains is None:
            return None
        synthetic, real = seen.domains
        told = domain_error(self.classifier(synthetic.detach()), self.classifier(real.detach()))
        fixed = {k: v.detach() for k, v in self.classifier.named_parameters()}
        logits = torch.func.functional_call(self.classifier, fixed, (real,))
        return told + F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


ADDA = Method("adda", both, (Adversary,), unshared=True, frozen=("f_s", "h"))
