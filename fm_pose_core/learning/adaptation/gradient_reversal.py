"""Ganin, Lempitsky: Unsupervised Domain Adaptation by Backpropagation (ICML 2015), the paper's [12]. A classifier tells
real features from synthetic ones; its gradient is reversed before it reaches f, which learns to make them alike. Both
kinds of images have pose labels here, as in the paper's Table 1."""

import math
from typing import Any

import torch
from torch import Tensor

from fm_pose_core.learning.adaptation.domains import DomainTerm, domain_error
from fm_pose_core.learning.adaptation.method import Method, both
from fm_pose_core.learning.losses import POSE_TERMS, Seen


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is turned round and scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


class ReversedDomain(DomainTerm):
    """L_d: the classifier's cross entropy over all cells. It learns to tell the domains apart, f to confuse it, with a
    strength 2 / (1 + exp(−10 p)) − 1 that grows with the progress p of the phase (their section 4)."""

    def forward(self, seen: Seen) -> Tensor | None:
        if seen.domains is None:
            return None
        strength = 2.0 / (1.0 + math.exp(-10.0 * seen.progress)) - 1.0
        logits = (self.classifier(Reversal.apply(x, strength)) for x in seen.domains)
        return domain_error(*logits)


GRADIENT_REVERSAL = Method("gradient_reversal", both, (*POSE_TERMS, ReversedDomain))
