"""The mean of a network's weights over the latest part of its training. The last steps scatter about it, so it is the
better network, and as good in the midst of a training as the rate's decay would make it at the end (Polyak and
Juditsky 1992; here with the weights of Karras et al., Analyzing and improving the training dynamics of diffusion
models, CVPR 2024, section 3.1)."""

import copy

import torch

from fm_pose_core.learning.networks import FeatureMapping


@torch.no_grad()
def mix(model: FeatureMapping, other: FeatureMapping, share: float) -> None:
    """Give the weights of another network of the same kind a share of a model's. What lies between the weights that a
    training begins with and those that it ends with can be better than both, above all on images unlike its own
    (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). Statistics of batch normalisation stay."""
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.lerp_(theirs.to(mine.device), share)


class WeightAverage:
    """Of a model. age: of the weights in the mean, on average, as a share of the steps so far; above 0, and 0.5 at the
    most, where all count alike. Begins with the model's."""

    def __init__(self, model: FeatureMapping, age: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._power = 1.0 / age - 1.0

    @torch.no_grad()
    def add(self, model: FeatureMapping, step: int) -> None:
        """The weights after `step` steps, counted from 1."""
        new = 1.0 - (1.0 - 1.0 / step) ** self._power
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, new)
        for own, latest in zip(self.model.buffers(), model.buffers(), strict=True):
            own.copy_(latest)  # statistics of batch normalisation are means already
