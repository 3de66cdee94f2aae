"""Tzeng, Hoffman, Zhang, Saenko, Darrell: Deep Domain Confusion (DDC, arXiv 1412.3474), the paper's [47]: the maximum
mean discrepancy of the features is minimised beside the task's loss, with a weight of 0.25. "We therefore changed the
classification loss to our regression loss" (section 4.1 of the paper)."""

from torch import Tensor

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
        if seen.domains is None:
            return None
        synthetic, real = (x.mean((0, 1)) for x in seen.domains)
        return (synthetic - real).square().sum()


DDC = Method("ddc", both, (*POSE_TERMS, MeanDiscrepancy))
