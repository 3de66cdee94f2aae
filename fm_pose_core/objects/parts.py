"""What the networks beside the one for poses share: each has an experiment made of that one's, with the same objects
and images, and a run of its own in a folder of that one's run (`Experiment.parts`)."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from fm_pose_core.bundle import Bundle
from fm_pose_core.errors import InputError
from fm_pose_core.learning.experiment import Export
from fm_pose_core.objects.experiment import ObjectExperiment

P = TypeVar("P", bound="PartExperiment")


@dataclass(frozen=True)
class PartExperiment(ObjectExperiment):
    """Made `of` an experiment with objects. It does not read the sections of other parts (APART)."""

    @classmethod
    def made(
        cls: type[P], experiment: ObjectExperiment, images: int, schedule: dict[str, Any], sections: dict[str, Any]
    ) -> P:
        """With a training of so many images, and other values of the schedule and other sections than `experiment`."""
        values = {"images": images, "validate_images": max(1, images // 4), "beginning": 0.0, **schedule}
        own = replace(experiment.schedule, **values)
        kept = {f.name: getattr(experiment, f.name) for f in fields(ObjectExperiment)}
        return cls(**{**kept, "schedule": own, **sections})

    def resumed_by(self, run: Path) -> str:
        return f"{super().resumed_by(run.parent)} --part {run.name}"

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        return ()


class PartData:
    """NAME: of the part."""

    NAME: ClassVar[str]

    def write_bundle(self, path: Path, export: Export) -> Bundle:
        """A part alone is none: always raises InputError."""
        raise InputError(f"{path}: expected the run of a network for poses, got that of its {self.NAME} alone")
