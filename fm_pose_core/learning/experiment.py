"""An experiment: what objects and hands share. `object_experiment` and `hand_experiment` add what they do not;
`experiment_file` reads one."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from fm_pose_core.bundle import Bundle
from fm_pose_core.config import knob, to_dict
from fm_pose_core.contract import Contract
from fm_pose_core.errors import expect
from fm_pose_core.learning.loader import Source
from fm_pose_core.learning.losses import METHODS, LossConfig
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig


@dataclass(frozen=True)
class ScheduleConfig:
    pretrain_images: int = knob(150_000, "Images of the pretraining, on synthetic data alone (section 3.4).", 0)
    images: int = knob(250_000, "Images of the training proper, all three kinds counted.", 1)
    batch_synthetic: int = knob(32, "Samples of T^S in a batch.", 0, 100_000)
    batch_pairs: int = knob(32, "Pairs of T^M in a batch (two images each; the real ones are of T^R).", 1, 100_000)
    batch_real: int = knob(0, "Samples of T^R in a batch beyond those of the pairs.", 0, 100_000)
    learning_rate: float = knob(1e-3, "Adam's step size at its peak.", 1e-8, 1.0)
    clip_gradient: float = knob(1.0, "Largest gradient norm.", 0.0, 1e9)
    precision: str = knob("bf16", "Arithmetic of the forward pass.", choices=("bf16", "fp32"))
    workers: int = knob(1, "Data processes per rank; 0 for none.", 0, 256)
    checkpoint_seconds: float = knob(
        60.0, "A checkpoint is written this often: at most this much is lost by a kill.", 0.0, 1e6
    )
    validate_images: int = knob(50_000, "Validate after every so many images.", 1)
    seed: int = knob(0, "Seed of all random streams.", 0)


class Validator(Protocol):
    """Scores a network as it stands on real images that it is not trained with."""

    def run(self, model: FeatureMapping, use_mapping: bool = True) -> dict[str, float]: ...


class Data(Protocol):
    """What an experiment reads once. source: of its training samples."""

    @property
    def source(self) -> Source: ...

    def validator(self, device: torch.device) -> Validator | None:
        """None where there is nothing to validate with."""
        ...

    def write_bundle(
        self, path: Path, network: Fused, onnx: bytes, architecture: dict[str, Any], training: dict[str, Any]
    ) -> Bundle:
        """The trained network with what it takes to use it."""
        ...


@dataclass(frozen=True)
class Experiment:
    """method, network, loss and schedule are common to all."""

    method: str = knob(
        "feature_mapping", "feature_mapping is the paper's; the others are its baselines.", choices=METHODS
    )
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def contract(self) -> Contract:
        """What goes into the network and comes out."""
        raise NotImplementedError

    def read_data(self) -> Data:
        """Read what the experiment names. Raises InputError for what is missing."""
        raise NotImplementedError

    def pretraining(self) -> dict[str, Any]:
        """What must be the same for two experiments to share a pretraining."""
        return {k: v for k, v in to_dict(self).items() if k not in ("method", "real", "loss")}


def expand(path: str) -> Path:
    """A path with its environment variables put in. Raises InputError if one is not set."""
    expanded = os.path.expandvars(os.path.expanduser(path))
    expect("$" not in expanded, path, "environment variables that are set (export NAME=…)", expanded)
    return Path(expanded)
