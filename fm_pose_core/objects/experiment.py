"""An experiment with an object, and the data that it names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fm_pose_core.bundle import ObjectBundle, write_bundle
from fm_pose_core.config import knob
from fm_pose_core.contract import Contract, object_contract
from fm_pose_core.errors import expect
from fm_pose_core.files import parse_ids, read_image
from fm_pose_core.geometry import box_corners
from fm_pose_core.learning.experiment import Experiment, expand
from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import BopDataset, Instance, ObjectModel
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.photographs import RealView, prepare_real_views
from fm_pose_core.objects.samples import ObjectSource, RealConfig, SyntheticConfig
from fm_pose_core.objects.validation import Validation, spread_scale
from fm_pose_core.rendering.backgrounds import read_folder
from fm_pose_core.rendering.mesh import load_mesh, mesh_file


@dataclass(frozen=True)
class ObjectConfig:
    dataset: str = knob("", "Folder of a BOP dataset; environment variables such as $FM_POSE_DATA are expanded.")
    split: str = knob("test", "Split with the real images.")
    id: int = knob(1, "Object id in the dataset.", 1)
    name: str = knob("", "Name of the object; empty for the dataset's own.")
    training_frames: str = knob("", "Real images to train with, such as '3-248,474-600'; empty for all.")
    validation_frames: str = knob("", "Real images to validate with, never trained on; empty for none.")
    faces: int = knob(5000, "The mesh is simplified to about so many triangles for rendering.", 100, 10_000_000)


@dataclass(frozen=True)
class CropConfig:
    size: int = knob(128, "Side of the network's window, pixels; a multiple of 16.", 32, 1024)
    margin: float = knob(
        1.15, "Width of the window relative to the object's diameter at the nearest distance.", 0.5, 10.0
    )


@dataclass(frozen=True)
class BackgroundConfig:
    folder: str = knob("", "Folder of background images; empty for none.")
    training_frames: bool = knob(True, "Cut backgrounds from the real training images, with the object erased.")
    procedural: float = knob(0.5, "Share of procedural backgrounds (all, where there are no images).", 0.0, 1.0)


@dataclass(frozen=True)
class ObjectExperiment(Experiment):
    object: ObjectConfig = field(default_factory=ObjectConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    real: RealConfig = field(default_factory=RealConfig)
    backgrounds: BackgroundConfig = field(default_factory=BackgroundConfig)

    def contract(self) -> Contract:
        return object_contract(self.crop.size)

    def read_data(self) -> "ObjectData":
        """Read the mesh and the real images. Raises InputError for what is missing."""
        return read_data(self)


@dataclass(frozen=True)
class ObjectData:
    """source: of the samples; model; the instances to train with and to validate on. name: of the object."""

    source: ObjectSource
    model: ObjectModel
    training: list[Instance]
    validation: list[Instance]
    name: str

    def validator(self, device: torch.device) -> Validation | None:
        if not self.validation:
            return None
        return Validation(self.model, self.source.crop, self.source.corners, self.validation, self.training, device)

    def write_bundle(
        self, path: Path, network: Fused, onnx: bytes, architecture: dict[str, Any], training: dict[str, Any]
    ) -> ObjectBundle:
        m, crop = self.model, self.source.crop
        scale = spread_scale(network, crop, self.source.corners, self.validation or self.training)
        return write_bundle(
            path,
            network=onnx,
            architecture=architecture,
            name=self.name,
            object_id=m.id,
            minimum=m.minimum,
            maximum=m.maximum,
            diameter=m.diameter,
            crop=crop,
            symmetries=m.symmetries,
            mesh=mesh_file(self.source.mesh),
            spread_scale=scale,
            training=training,
        )


def read_data(experiment: ObjectExperiment) -> ObjectData:
    """Read the mesh and the real images of an experiment. Raises InputError for what is missing."""
    o, (nearest, farthest) = experiment.object, experiment.synthetic.viewpoints.distance
    expect(experiment.crop.size % 16 == 0, "crop.size", "a multiple of 16", experiment.crop.size)
    expect(nearest <= farthest, "synthetic.viewpoints.distance", "the nearest first", (nearest, farthest))
    appearance = experiment.real.appearance
    expect(
        appearance.light == appearance.repaint == 0.0,
        "real.appearance",
        "no light and no repaint: photographs are lit",
        appearance,
    )
    dataset = BopDataset(expand(o.dataset))
    model = dataset.model(o.id)
    real = dataset.instances(o.split, [o.id])
    validation_ids = parse_ids(o.validation_frames) if o.validation_frames else set()
    validation = [x for x in real if x.im_id in validation_ids]
    training_ids = parse_ids(o.training_frames) if o.training_frames else {x.im_id for x in real} - validation_ids
    expect(
        not (training_ids & validation_ids & {x.im_id for x in real}),
        "frames",
        "no image in training and validation",
        sorted(training_ids & validation_ids)[:5],
    )
    training = [x for x in real if x.im_id in training_ids]
    mesh = load_mesh(model.mesh_path, 1e-3).simplified(o.faces)
    crop = Crop.around(model.diameter, nearest, experiment.crop.margin, experiment.crop.size)
    corners = box_corners(model.minimum, model.maximum)
    views: list[RealView] = []
    colours = np.zeros((0, 0, 3), np.float32)
    if training and experiment.method != "synthetic_only":
        views, colours = prepare_real_views(dataset, o.split, training, mesh, crop, corners.mean(0))
    photos: list[NDArray[np.uint8]] = []
    if experiment.backgrounds.folder:
        photos += read_folder(expand(experiment.backgrounds.folder))
    if experiment.backgrounds.training_frames:
        photos += [erased(x, corners) for x in training]
    source = ObjectSource(
        mesh,
        corners,
        crop,
        experiment.synthetic,
        experiment.real,
        views,
        colours,
        photos,
        experiment.backgrounds.procedural,
    )
    return ObjectData(source, model, training, validation, o.name or model.name)


def erased(instance: Instance, corners: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The photograph (H, W, 3) uint8 with the object's box painted over from its surroundings, to serve as
    background."""
    image = read_image(instance.image_path)
    points = instance.camera.pixels(corners @ instance.T_camera_object[:3, :3].T + instance.T_camera_object[:3, 3])
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), 255)
    return cv2.inpaint(image, mask, 3, cv2.INPAINT_TELEA)
