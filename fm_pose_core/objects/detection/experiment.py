"""The experiment in which the detector of a network for objects is trained: the same objects and images, a smaller
network, whole images."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fm_pose_core.contract import Contract, detector_contract
from fm_pose_core.learning.extractors import EXTRACTORS
from fm_pose_core.learning.losses import LossConfig
from fm_pose_core.learning.networks import NetworkConfig
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.bundle import DETECTOR, REFINER
from fm_pose_core.objects.detection.samples import SceneSource
from fm_pose_core.objects.detection.scenes import prepare_scenes
from fm_pose_core.objects.detection.validation import DetectorValidation
from fm_pose_core.objects.experiment import ObjectExperiment
from fm_pose_core.objects.parts import PartData, PartExperiment
from fm_pose_core.objects.samples import ObjectAssets


@dataclass(frozen=True)
class DetectorExperiment(PartExperiment):
    SECTION: ClassVar[str] = DETECTOR
    APART: ClassVar[tuple[str, ...]] = (REFINER,)

    @classmethod
    def of(cls, experiment: ObjectExperiment) -> "DetectorExperiment":
        """With the network and the schedule that its section `detector` asks for."""
        c = experiment.detector
        batch = {"batch_synthetic": c.batch, "batch_pairs": c.batch, "batch_real": c.batch}
        rate = c.learning_rate or experiment.schedule.learning_rate
        schedule = {"pretrain_images": c.pretrain_images, "learning_rate": rate, **batch}
        sections = {
            "network": NetworkConfig(c.extractor, c.width, c.features, weights=c.weights),
            "loss": LossConfig(feature_variance=experiment.loss.feature_variance),
            "crop": replace(experiment.crop, zoom=0.0),
        }
        return cls.made(experiment, c.images, schedule, sections)

    def contract(self) -> Contract:
        size, cell = self.detector.size, EXTRACTORS[self.network.extractor].cell
        return detector_contract(size, len(self.objects), (size // cell) ** 2, self.detector.depth)

    def read_data(self) -> "DetectorData":  # type: ignore[override]
        """See ObjectExperiment.read_data."""
        data = super().read_data()
        source = data.source
        assets = {m.id: a for m, a in zip(data.models, source.objects, strict=True)}
        scenes = prepare_scenes(data.training, assets, self.detector.size) if self.how.sees_real else []
        own = SceneSource(
            source.objects, scenes, self.detector, self.synthetic, self.real, source.photos, source.procedural_share
        )
        return DetectorData(own, assets, tuple(m.name for m in data.models), data.validation)


@dataclass(frozen=True)
class DetectorData(PartData):
    """assets: by object id. names: of the objects, in the order of the network's outputs. validation: instances."""

    NAME: ClassVar[str] = DETECTOR
    source: SceneSource
    assets: dict[int, ObjectAssets]
    names: tuple[str, ...]
    validation: list[Instance]

    def validator(self) -> DetectorValidation | None:
        if not self.validation:
            return None
        return DetectorValidation(self.validation, self.assets, self.names, self.source.config.size)
