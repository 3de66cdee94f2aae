"""Rozantsev, Salzmann, Fua: Beyond Sharing Weights for Deep Domain Adaptation (arXiv 1603.06432; CVPR 2017 in the
paper's Table 1, [38]). Synthetic and real images have an extractor each, f_s and f; their weights differ but stay
related. The losses are those of the poses of both kinds of images, L_w, and the maximum mean discrepancy of the
features (here with a linear kernel). h is shared."""

import torch
from torch import Tensor, nn

from fm_pose_core.learning.adaptation.ddc import MeanDiscrepancy
from fm_pose_core.learning.adaptation.method import Method, both
from fm_pose_core.learning.losses import POSE_TERMS, LossConfig, Seen, Term
from fm_pose_core.learning.networks import FeatureMapping


class RelatedWeights(Term):
    """L_w: the sum over all weights and biases of exp(‖a θ_s + b − θ‖²) − 1, with a scale a and a shift b learned for
    each of them."""

    name, knobs = "L_w", ("related",)

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        assert model.f_s is not None
        # Kept out of the module's own parameters: they belong to the model.
        self._pairs = list(zip(model.f_s.parameters(), model.f.parameters(), strict=True))
        self.scale = nn.Parameter(torch.ones(len(self._pairs)))
        self.shift = nn.Parameter(torch.zeros(len(self._pairs)))

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.related

    def forward(self, seen: Seen) -> Tensor | None:
        total = self.scale.new_zeros(())
        for a, b, (theta_s, theta) in zip(self.scale, self.shift, self._pairs, strict=True):
            total = total + torch.expm1((a * theta_s + b - theta).square().sum())
        return total


ROZANTSEV = Method("rozantsev", both, (*POSE_TERMS, RelatedWeights, MeanDiscrepancy), unshared=True)
