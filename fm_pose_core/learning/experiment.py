"""An experiment: what all tasks share. `objects.experiment` and `hands.experiment` add what they do not; `tasks` reads
one from a file."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.bundle import Bundle, NetworkFile
from fm_pose_core.config import knob, to_dict
from fm_pose_core.contract import Contract
from fm_pose_core.errors import expect
from fm_pose_core.learning.adaptation import METHODS, Method
from fm_pose_core.learning.adaptation.method import MixtureConfig
from fm_pose_core.learning.loader import Source
from fm_pose_core.learning.losses import LossConfig
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig

# Of the schedule: they change next to nothing of what is learned in a pretraining.
WATCHED = ("validate_images", "precision", "average", "beginning")


@dataclass(frozen=True)
class ScheduleConfig(MixtureConfig):
    learning_rate: float = knob(1e-3, "Adam's step size at its peak.", 1e-8, 1.0)
    published_rate: float = knob(
        0.2, "Share of the learning rate for what begins with weights from ImageNet (efficientnet_lite0).", 0.0, 1.0
    )
    average: float = knob(
        0.1,
        "The network is the mean of its weights over the latest part of the training: their age on average, as a share "
        "of the steps of the phase. 0: the latest alone.",
        0.0,
        0.5,
    )
    beginning: float = knob(
        0.0,
        "Share that the weights which the training begins with, those of a bundle in `network.weights`, have in those "
        "that it ends with: what was known, and what was learned since (beyond the paper). The bundle should know the "
        "same objects.",
        0.0,
        0.9,
    )
    clip_gradient: float = knob(1.0, "Largest gradient norm.", 0.0, 1e9)
    precision: str = knob(
        "auto",
        "Arithmetic of the forward pass; auto: bf16 where the device computes with it, else fp32.",
        choices=("auto", "bf16", "fp32"),
    )
    workers: int = knob(1, "Data processes per rank; 0 for none.", 0, 256)
    checkpoint_seconds: float = knob(
        60.0, "A checkpoint is written this often: at most this much is lost by a kill.", 0.0, 1e6
    )
    validate_images: int = knob(50_000, "Validate after every so many images.", 1)
    seed: int = knob(0, "Seed of all random streams.", 0)


class Validator(Protocol):
    """Scores a network as it stands on real images that it is not trained with."""

    def run(self, network: Fused) -> dict[str, float]:
        """Named figures, as they go into the log; the name tells the unit."""
        ...


@dataclass(frozen=True)
class Part:
    """A trained network that goes into a bundle beside another one."""

    network: Fused
    file: NetworkFile


@dataclass(frozen=True)
class Export:
    """A trained network on its way into a bundle. onnx: the file. architecture: of the network, as the torch backend
    reads it. training: for the record. sample: windows of the training's renderings (N, *contract.image_shape). parts:
    the networks of Experiment.parts that are trained. refine: what poses are to be refined by, as EstimatorConfig has
    it; auto: what the validation frames say. support: whether the bundle is to know how objects stand on a plane: none,
    always, or auto, if that makes poses of the validation frames better."""

    network: Fused
    onnx: bytes
    architecture: dict[str, Any]
    training: dict[str, Any]
    sample: NDArray[np.generic]
    parts: dict[str, Part] = field(default_factory=dict)
    refine: str = "auto"
    support: str = "auto"

    def file(self, spread_scale: float) -> NetworkFile:
        """For the bundle. spread_scale: see CalibrationEntry."""
        contract = self.network.contract
        return NetworkFile(self.onnx, self.architecture, contract, spread_scale, self.training, self.sample)


class Data(Protocol):
    """What an experiment reads once. source: of its training samples."""

    @property
    def source(self) -> Source:
        """Where the samples come from, for each data process."""
        ...

    def validator(self) -> Validator | None:
        """None where there is nothing to validate with."""
        ...

    def write_bundle(self, path: Path, export: Export) -> Bundle:
        """The trained network with what it takes to use it."""
        ...


@dataclass(frozen=True)
class Experiment:
    """method, network, loss and schedule are common to all."""

    method: str = knob(
        "feature_mapping",
        "feature_mapping is the paper's; the others are its baselines and peers.",
        choices=tuple(METHODS),
    )
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    @property
    def how(self) -> Method:
        """The method by its name."""
        return METHODS[self.method]

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs of points that a picture of a label joins by lines."""
        return ()

    SECTION: ClassVar[str] = "network"  # of the configuration: whose weights its network begins with
    APART: ClassVar[tuple[str, ...]] = ()  # sections of the configuration that only parts read

    def own(self, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """What of a configuration, by default this one, its training reads."""
        values = to_dict(self) if config is None else config
        return {k: v for k, v in values.items() if k not in self.APART}

    def resumed_by(self, run: Path) -> str:
        """The command that goes on with a run of this experiment."""
        return f"fm-pose train --resume {run}"

    def parts(self) -> "dict[str, Experiment]":
        """Networks beside this one that go into the same bundle, each with a run of its own in a folder of that name
        within this one's."""
        return {}

    def contract(self) -> Contract:
        """What goes into the network and comes out."""
        raise NotImplementedError

    def read_data(self) -> Data:
        """Read what the experiment names. Raises InputError for what is missing."""
        raise NotImplementedError

    def model(self) -> FeatureMapping:
        """The networks before any training; g exists where the method has one."""
        method = self.how
        config = replace(self.network, mapping=method.mapping)
        return FeatureMapping(config, self.contract(), unshared=method.unshared)

    def prepare(self, model: FeatureMapping, run: Path) -> None:
        """Put into a new model what it begins with, beside `network.weights`. run: its folder. Raises InputError where
        it lacks something."""
        begins = bool(self.network.weights) or not model.f.published
        wanted = f"what {self.network.extractor} begins with: imagenet, or a bundle"
        expect(begins, f"{self.SECTION}.weights", wanted, "none")

    def untrained(self) -> "Experiment":
        """The same without weights to begin with: those of a checkpoint are put in."""
        return replace(self, network=replace(self.network, weights=""))

    def pretraining(self) -> dict[str, Any]:
        """What must be the same for two experiments to share a pretraining: all but the method, the section `real`,
        and those parts of the loss that the pretraining does not read."""
        knobs = {k for term in self.how.pretraining for k in term.knobs}
        values = {k: v for k, v in self.own().items() if k not in ("method", "real")}
        schedule = {k: v for k, v in values["schedule"].items() if k not in WATCHED}
        return {**values, "schedule": schedule, "loss": {k: v for k, v in values["loss"].items() if k in knobs}}
