"""What a method is: which images each phase sees, which networks exist, and which terms are minimised.

Every method gets the same number of images and steps; only the mixture differs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from fm_pose_core.config import knob
from fm_pose_core.learning.losses import BESIDE, POSE_TERMS, SyntheticPose, Term


@dataclass(frozen=True)
class MixtureConfig:
    """How many images a training sees, and the mixture of a batch."""

    pretrain_images: int = knob(150_000, "Images of the pretraining, on synthetic data alone (section 3.4).", 0)
    images: int = knob(250_000, "Images of the training proper, all three kinds counted.", 1)
    batch_synthetic: int = knob(32, "Samples of T^S in a batch.", 0, 100_000)
    batch_pairs: int = knob(32, "Pairs of T^M in a batch (two images each; the real ones are of T^R).", 1, 100_000)
    batch_real: int = knob(0, "Samples of T^R in a batch beyond those of the pairs.", 0, 100_000)

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.batch_synthetic + 2 * self.batch_pairs + self.batch_real


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed mixture in each batch: `synthetic` images of T^S, `real` ones of T^R, and for
    the first `paired` of these their renderings (T^M)."""

    name: str
    images: int
    synthetic: int
    real: int
    paired: int

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.synthetic + self.real + self.paired

    @property
    def steps(self) -> int:
        """Batches in the phase."""
        return math.ceil(self.images / self.batch)


PRETRAINING = "pretrain"
Phases = Callable[[MixtureConfig], list[Phase]]


def both(m: MixtureConfig) -> list[Phase]:
    """Pretraining on renderings, then renderings, photographs and pairs together (section 3.4)."""
    joint = Phase("joint", m.images, m.batch_synthetic, m.batch_pairs + m.batch_real, m.batch_pairs)
    return [Phase(PRETRAINING, m.pretrain_images, m.batch, 0, 0), joint]


def pairs(m: MixtureConfig) -> list[Phase]:
    """Pretraining on renderings, then photographs with their renderings, and no others."""
    half = m.batch // 2
    joint = Phase("joint", m.images, m.batch - 2 * half, half, half)
    return [Phase(PRETRAINING, m.pretrain_images, m.batch, 0, 0), joint]


def synthetic_alone(m: MixtureConfig) -> list[Phase]:
    """Renderings alone."""
    return [Phase(PRETRAINING, m.pretrain_images, m.batch, 0, 0), Phase("joint", m.images, m.batch, 0, 0)]


def real_alone(m: MixtureConfig) -> list[Phase]:
    """Real images alone, from the start."""
    return [Phase("joint", m.pretrain_images + m.images, 0, m.batch, 0)]


@dataclass(frozen=True)
class Method:
    """A way to learn from renderings and real images.

    name: in configurations. phases: which images are seen. terms: what is minimised after the
    pretraining, in which all methods minimise L_hS. mapping: whether g exists. unshared: whether synthetic images have
    an extractor f_s of their own then, which starts as a copy of f. frozen: networks that do not learn then.
    """

    name: str
    phases: Phases
    terms: tuple[type[Term], ...] = POSE_TERMS
    mapping: bool = False
    unshared: bool = False
    frozen: tuple[str, ...] = ()
    pretraining: tuple[type[Term], ...] = field(default=(SyntheticPose, *BESIDE))

    @property
    def sees_real(self) -> bool:
        """Whether any phase has real images."""
        return any(phase.real > 0 for phase in self.phases(MixtureConfig()))

    def terms_of(self, phase: Phase) -> tuple[type[Term], ...]:
        """What is minimised in a phase."""
        return self.pretraining if phase.name == PRETRAINING else self.terms
