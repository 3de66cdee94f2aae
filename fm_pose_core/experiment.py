"""An experiment: one YAML file (config/train/*.yaml) and the data that it names."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.crop import Crop
from fm_pose_core.data.backgrounds import read_folder
from fm_pose_core.data.bop import BopDataset, Instance, ObjectModel, parse_ids, read_image
from fm_pose_core.data.loader import Source
from fm_pose_core.data.real import RealView, prepare_real_views
from fm_pose_core.data.renderer import load_mesh
from fm_pose_core.data.samples import RealConfig, SyntheticConfig
from fm_pose_core.errors import expect
from fm_pose_core.geometry import box_corners
from fm_pose_core.losses import METHODS, LossConfig
from fm_pose_core.networks import NetworkConfig


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
    margin: float = knob(1.15, "Width of the window relative to the object's diameter at the nearest distance.", 0.5, 10.0)


@dataclass(frozen=True)
class BackgroundConfig:
    folder: str = knob("", "Folder of background images; empty for none.")
    training_frames: bool = knob(True, "Cut backgrounds from the real training images, with the object erased.")
    procedural: float = knob(0.5, "Share of procedural backgrounds (all, where there are no images).", 0.0, 1.0)


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
    checkpoint_seconds: float = knob(60.0, "A checkpoint is written this often: at most this much is lost by a kill.", 0.0, 1e6)
    validate_images: int = knob(50_000, "Validate after every so many images.", 1)
    seed: int = knob(0, "Seed of all random streams.", 0)


@dataclass(frozen=True)
class Experiment:
    method: str = knob("feature_mapping", "feature_mapping is the paper's; the others are its baselines.", choices=METHODS)
    object: ObjectConfig = field(default_factory=ObjectConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    real: RealConfig = field(default_factory=RealConfig)
    backgrounds: BackgroundConfig = field(default_factory=BackgroundConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True)
class Data:
    """What an experiment reads once: the source of its samples, the model, and the instances to validate on."""

    source: Source
    model: ObjectModel
    training: list[Instance]
    validation: list[Instance]


def expand(path: str) -> Path:
    """A path with its environment variables put in. Raises InputError if one is not set."""
    expanded = os.path.expandvars(os.path.expanduser(path))
    expect("$" not in expanded, "path", "all environment variables set", path)
    return Path(expanded)


def read_data(experiment: Experiment) -> Data:
    """Read the mesh and the real images of an experiment. Raises InputError for what is missing."""
    o, (nearest, farthest) = experiment.object, experiment.synthetic.viewpoints.distance
    expect(experiment.crop.size % 16 == 0, "crop.size", "a multiple of 16", experiment.crop.size)
    expect(nearest <= farthest, "synthetic.viewpoints.distance", "the nearest first", (nearest, farthest))
    appearance = experiment.real.appearance
    expect(appearance.light == appearance.repaint == 0.0, "real.appearance", "no light and no repaint: photographs are lit", appearance)
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
    source = Source(mesh, corners, crop, experiment.synthetic, experiment.real, views, colours, photos, experiment.backgrounds.procedural)
    return Data(source, model, training, validation)


def erased(instance: Instance, corners: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The photograph (H, W, 3) uint8 with the object's box painted over from its surroundings, to serve as background."""
    image = read_image(instance.image_path)
    points = instance.camera.pixels(corners @ instance.T_camera_object[:3, :3].T + instance.T_camera_object[:3, 3])
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), 255)
    return cv2.inpaint(image, mask, 3, cv2.INPAINT_TELEA)
