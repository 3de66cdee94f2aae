"""What a term of the loss is, what it sees, and its settings."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fm_pose_core.config import knob
from fm_pose_core.learning.heads import HeadLoss
from fm_pose_core.learning.networks import FeatureMapping

OUTLYING = 2.0  # of an expected log error: farther from the mean it counts no more


@dataclass(frozen=True)
class LossConfig:
    beta: float = knob(1.0, "β of Eq. 1, weight of L_hR.", 0.0, 1e6)
    gamma: float = knob(0.2, "γ of Eq. 1, weight of L_g.", 0.0, 1e6)
    target_gradient: bool = knob(
        True, "Whether L_g also moves the features of the synthetic image (the paper trains all jointly)."
    )
    feature_variance: float = knob(
        0.0,
        "0: L_g as in Eq. 4. Else L_g is relative: the share of the synthetic features' variance that the mapping "
        "leaves, times this; the cells that show the object count half.",
        0.0,
        1e6,
    )
    points: float = knob(0.0, "Weight of L_p, beyond the paper: the object's surface point in each cell.", 0.0, 1e6)
    distance: float = knob(4.0, "Weight of L_z, for network.distance: how far away the object is.", 0.0, 1e6)
    rotation: float = knob(0.0, "Weight of L_r, for network.surface: how far the pose is turned.", 0.0, 1e6)
    presence: float = knob(1.0, "Weight of L_c, for network.presence: whether there is a hand.", 0.0, 1e6)
    huber: float = knob(
        0.0,
        "0: squared error as in Eq. 2 and 3. Else beyond this distance (in halves of the window) the error of a point "
        "grows linearly.",
        0.0,
        10.0,
    )
    sure: float = knob(
        0.0,
        "Beyond the paper: by how much more images count whose pose h expects to know well, in L_hS, L_hR, L_r and "
        "L_z. Weights are the expected error, relative to the batch's, to the power of minus this.",
        0.0,
        2.0,
    )
    size: float = knob(
        0.0,
        "Weight of L_f, the features' mean square: nothing else bounds what h does not read (see FeatureSize).",
        0.0,
        1e6,
    )
    related: float = knob(1.0, "Weight of L_w, for the method rozantsev: f and f_s stay related.", 0.0, 1e6)
    domain: float = knob(
        1.0, "Weight of L_d, for the methods gradient_reversal and adda: which domain is seen.", 0.0, 1e6
    )
    mmd: float = knob(
        0.25, "Weight of L_mmd, for the methods ddc and rozantsev: the distance of the features' means.", 0.0, 1e6
    )


@dataclass(frozen=True)
class Answers:
    """Features that h reads (N, L, D), the images' labels (suffixes left out), h's loss for each image, and what it
    predicts."""

    features: Tensor
    labels: dict[str, Tensor]
    loss: HeadLoss
    prediction: Any

    def weights(self, sure: float) -> Tensor:
        """(N,), constant: the errors that h expects, relative to these images' mean, to the power of -sure; scaled so
        that the mean of these errors, weighed, stays what it is. Without them what cannot be known, of a hidden object,
        say, drowns the small errors of what can (Kendall and Gal, NeurIPS 2017, learn such weights from the losses
        themselves). Renderings and photographs are weighed among themselves. 1 where h expects nothing."""
        if sure == 0 or self.loss.expected is None:
            return torch.ones_like(self.loss.pose)
        log = self.loss.expected.detach()
        error = (log - log.nanmean()).clamp(-OUTLYING, OUTLYING).exp()
        weights = error**-sure
        return (weights * (error.nanmean() / (weights * error).nanmean())).nan_to_num(1.0)


@dataclass(frozen=True)
class Seen:
    """What the networks make of a batch. features: f's (N, L, D) of x_s, x_m and x_r, as far as the batch has them.
    mapped: g's of x_r. synthetic: h's answers for x_s and x_m together; real: for x_r. progress: share of the phase
    that is done, 0 to 1."""

    features: dict[str, Tensor]
    mapped: Tensor | None
    synthetic: Answers | None
    real: Answers | None
    progress: float

    @property
    def domains(self) -> tuple[Tensor, Tensor] | None:
        """Features of synthetic images (x_s and x_m together) and of real ones, (N, L, D) float32 each; None where
        the batch does not have both."""
        synthetic = [self.features[k] for k in ("x_s", "x_m") if k in self.features]
        if not synthetic or "x_r" not in self.features:
            return None
        return torch.cat(synthetic).float(), self.features["x_r"].float()

    @property
    def answers(self) -> list[Answers]:
        """What there is of both."""
        return [x for x in (self.synthetic, self.real) if x is not None]


class Term(nn.Module):
    """One named loss of a batch, which may have layers of its own. A term whose weight is 0 is left out. name: in logs
    and checkpoints. knobs: of LossConfig, that it reads."""

    name: ClassVar[str]
    knobs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    @staticmethod
    def weight(config: LossConfig) -> float:
        """Its factor in the sum L."""
        return 1.0

    def forward(self, seen: Seen) -> Tensor | None:
        """A scalar; None where the batch has nothing for it."""
        raise NotImplementedError
