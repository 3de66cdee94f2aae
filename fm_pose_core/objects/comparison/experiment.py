"""The experiment in which h_Δ is trained: on the features that f and g of a network for poses give, which stay as they
are."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch

from fm_pose_core.bundle import Bundle
from fm_pose_core.contract import Contract, update_contract
from fm_pose_core.errors import InputError
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.experiment import Export
from fm_pose_core.learning.losses import LossConfig
from fm_pose_core.learning.networks import FeatureMapping
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.bundle import DETECTOR
from fm_pose_core.objects.comparison.samples import ComparisonSource
from fm_pose_core.objects.comparison.validation import ComparisonValidation
from fm_pose_core.objects.experiment import ObjectExperiment
from fm_pose_core.objects.validation import KnownObject

HUBER = 1.0  # of an update's units


@dataclass(frozen=True)
class RefinerExperiment(ObjectExperiment):
    """Made `of` an experiment with objects."""

    APART: ClassVar[tuple[str, ...]] = (DETECTOR,)

    @classmethod
    def of(cls, experiment: ObjectExperiment) -> "RefinerExperiment":
        """With the schedule that its section `refiner` asks for."""
        c = experiment.refiner
        schedule = replace(
            experiment.schedule,
            pretrain_images=0,
            images=c.images,
            batch_synthetic=c.batch,
            batch_pairs=1,  # which have no rendering of the true pose here
            batch_real=c.batch - 1,
            learning_rate=c.learning_rate,
            validate_images=max(1, c.images // 4),
        )
        values = {f.name: getattr(experiment, f.name) for f in fields(ObjectExperiment)} | {
            "method": experiment.method if c.mapped else "without_mapping",
            "network": replace(experiment.network, surface=False, distance=False, weights=""),
            "loss": LossConfig(gamma=0.0, distance=0.0, huber=HUBER),
            "schedule": schedule,
        }
        return cls(**values)

    def resumed_by(self, run: Path) -> str:
        return f"{super().resumed_by(run.parent)} --part {run.name}"

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        return ()

    def contract(self) -> Contract:
        return update_contract(self.crop.size)

    def prepare(self, model: FeatureMapping, run: Path) -> None:
        """f and g of the network for poses: the folder of this run is in that of its."""
        path, what = run.parent / checkpoints.LATEST, "the checkpoint of the network whose poses are to be refined"
        state = checkpoints.read(path, torch.device("cpu"), what, ObjectExperiment)
        own = model.state_dict()
        with checkpoints.expected(path, what):
            theirs = {k: "model." + k.replace("f.each.", "f.").replace("g.g.", "g.") for k in own if k[:2] != "h."}
            model.load_state_dict({**own, **{k: state["objective"][name] for k, name in theirs.items()}})

    def read_data(self) -> "RefinerData":  # type: ignore[override]
        """See ObjectExperiment.read_data."""
        data = super().read_data()
        source = ComparisonSource(**{f.name: getattr(data.source, f.name) for f in fields(data.source)})
        return RefinerData(source, data.known(), data.validation)


@dataclass(frozen=True)
class RefinerData:
    """known: the objects. validation: instances."""

    source: ComparisonSource
    known: list[KnownObject]
    validation: list[Instance]

    def validator(self) -> ComparisonValidation | None:
        if not self.validation:
            return None
        return ComparisonValidation(self.validation, self.known, self.source.objects)

    def write_bundle(self, path: Path, export: Export) -> Bundle:
        raise InputError(f"{path}: expected the run of a network for poses, got that of its refiner alone")
