"""Tzeng, Hoffman, Zhang, Saenko, Darrell: Deep Domain Confusion (DDC, arXiv 1412.3474), the paper's [47]: the maximum
mean discrepancy of the features is minimised beside the task's loss, with a weight of 0.25. "We therefore changed the
classification loss to our regression loss" (section 4.1 of the paper)."""

from torch import Tensor

from fm_pose_core.learning.adaptation.domains import synthetic_features
from fm_pose_core.learning.adaptation.method import Method, both
from fm_pose_core.learning.losses import POSE_TERMS, LossConfig, Seen, Term


class MeanDiscrepancy(Term):
    """L_mmd: the squared distance between the means of the synthetic and of the real features, over images and cells
    (MMD² with a linear kernel)."""

    name, knobs = "L_mmd", ("mmd",)

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.mmd

    def forward(self, seen: Seen) -> Tensor | None:
        synthetic = synthetic_features(seen.features)
        if synthetic is None or "x_r" not in seen.features:
            return None
        return (synthetic.mean((0, 1)) - seen.features["x_r"].float().mean((0, 1))).square().sum()


PAPER = "Tzeng et al.: Deep Domain Confusion: Maximizing for Domain Invariance (2014)"
DDC = Method("ddc", PAPER, both, (*POSE_TERMS, MeanDiscrepancy))
