"""The experiment in which h_Δ is trained: on the features that f and g of a network for poses give, which stay as they
are."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import torch

from fm_pose_core.contract import Contract, update_contract
from fm_pose_core.errors import expect
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.losses import LossConfig
from fm_pose_core.learning.networks import FeatureMapping
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.bundle import DETECTOR, REFINER
from fm_pose_core.objects.comparison.samples import ComparisonSource
from fm_pose_core.objects.comparison.validation import ComparisonValidation
from fm_pose_core.objects.experiment import ObjectExperiment
from fm_pose_core.objects.parts import PartData, PartExperiment
from fm_pose_core.objects.validation import KnownObject

HUBER = 1.0  # of an update's units


@dataclass(frozen=True)
class RefinerExperiment(PartExperiment):
    APART: ClassVar[tuple[str, ...]] = (DETECTOR,)

    @classmethod
    def of(cls, experiment: ObjectExperiment) -> "RefinerExperiment":
        """With the schedule that its section `refiner` asks for."""
        c = experiment.refiner
        batch = {"batch_synthetic": c.batch, "batch_pairs": 1, "batch_real": c.batch - 1}  # pairs have no x_m here
        sections = {
            "method": "feature_mapping" if c.mapped and experiment.how.mapping else "without_mapping",
            "network": replace(experiment.network, surface=False, distance=False, weights=""),
            "loss": LossConfig(gamma=0.0, distance=0.0, huber=HUBER),
        }
        schedule = {"pretrain_images": 0, "learning_rate": c.learning_rate, **batch}
        return cls.made(experiment, c.images, schedule, sections)

    def contract(self) -> Contract:
        return update_contract(self.crop.size)

    def prepare(self, model: FeatureMapping, run: Path) -> None:
        """f and g of the network for poses: the folder of this run is in that of its."""
        path, what = run.parent / checkpoints.LATEST, "the checkpoint of the network whose poses are to be refined"
        state = checkpoints.read(path, torch.device("cpu"), what, ObjectExperiment)
        seen, of = (state.get("trained", {}).get(k, 0) for k in ("images", "of"))
        expect(seen >= of, str(path), "a training that is finished", f"{seen} of {of} images")
        own = model.state_dict()
        with checkpoints.expected(path, what):
            theirs = {k: k.replace("f.each.", "f.").replace("g.g.", "g.") for k in own if k[:2] != "h."}
            weights = checkpoints.weights(state)
            model.load_state_dict({**own, **{k: weights[name] for k, name in theirs.items()}})

    def read_data(self) -> "RefinerData":  # type: ignore[override]
        """See ObjectExperiment.read_data."""
        data = super().read_data()
        kept = {f.name: getattr(data.source, f.name) for f in fields(data.source)}
        return RefinerData(ComparisonSource(**kept), data.known(), data.validation)


@dataclass(frozen=True)
class RefinerData(PartData):
    """known: the objects. validation: instances."""

    NAME: ClassVar[str] = REFINER
    source: ComparisonSource
    known: list[KnownObject]
    validation: list[Instance]

    def validator(self) -> ComparisonValidation | None:
        if not self.validation:
            return None
        return ComparisonValidation(self.validation, self.known, self.source.objects)
