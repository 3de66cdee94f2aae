"""An experiment with objects, and the data that it names."""

import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.contract import Contract, object_contract
from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import Frames, expanded, read_image
from fm_pose_core.geometry import BOX_EDGES, Array, apply, box_corners
from fm_pose_core.learning.experiment import Experiment, Export
from fm_pose_core.learning.extractors import EXTRACTORS
from fm_pose_core.objects.bop import MM, BopDataset, Instance, ObjectModel
from fm_pose_core.objects.bundle import DETECTOR, REFINER, ObjectBundle, ObjectInBundle, write_object_bundle
from fm_pose_core.objects.calibration import Asked, calibrate
from fm_pose_core.objects.comparison.samples import RefinerConfig
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.detection.samples import DetectorConfig
from fm_pose_core.objects.photographs import LIGHTS, prepare_real_views
from fm_pose_core.objects.refiners import choose_refiners
from fm_pose_core.objects.samples import ObjectAssets, ObjectSource, RealConfig, SyntheticConfig
from fm_pose_core.objects.solver import ObjectSolver
from fm_pose_core.objects.stances import choose_stances
from fm_pose_core.objects.validation import KnownObject, Validation
from fm_pose_core.objects.viewpoints import ViewpointConfig, reaches
from fm_pose_core.rendering.backgrounds import read_folder
from fm_pose_core.rendering.mesh import load_mesh, mesh_file

log = logging.getLogger(__name__)
FINEST = 1.5  # patches of photographs are at most so much finer than windows: they are sampled without a filter
RARE = 0.05  # share of an object's photographs that renderings need not reach
FRAMES = "such as '3-248,474-600', or '2/3-248,5/*' where the split has several scenes"


@dataclass(frozen=True)
class DataConfig:
    dataset: str = knob("", "Folder of a BOP dataset; environment variables such as $FM_POSE_DATA are expanded.")
    split: str = knob("test", "Split with the real images.")
    labels: str = knob(
        "",
        "Other labels in place of the dataset's: a scene_gt.json, or a folder with SCENE/scene_gt.json. Images without "
        "one are left out.",
    )
    training_frames: str = knob("", f"Real images to train with, {FRAMES}; empty for all that are not named below.")
    validation_frames: str = knob("", f"Real images to validate with, never trained on, {FRAMES}; empty for none.")
    report_frames: str = knob(
        "", f"Real images that results are reported on; they neither train nor choose anything, {FRAMES}."
    )


@dataclass(frozen=True)
class ObjectConfig:
    id: int = knob(1, "Object id in the dataset.", 1)
    name: str = knob("", "Name of the object; empty for the dataset's own.")
    symmetries: bool = knob(
        True, "Whether a pose that differs by one of the dataset's symmetries is as right, in labels and losses."
    )
    faces: int = knob(5000, "The mesh is simplified to about so many triangles for rendering.", 100, 10_000_000)


@dataclass(frozen=True)
class CropConfig:
    size: int = knob(128, "Side of the network's window, pixels; a multiple of 16.", 32, 1024)
    margin: float = knob(
        1.15, "Width of the window relative to the object's diameter at the nearest distance.", 0.5, 10.0
    )
    zoom: float = knob(
        0.0,
        "Width of the window of a second look relative to the object's diameter: it is zoomed by what the first one "
        "finds, or at once if the detector tells the distance. 0: there is no second look.",
        0.0,
        10.0,
    )
    zoomed: float = knob(0.5, "Share of the training windows that are zoomed so, with `zoom`.", 0.0, 1.0)


@dataclass(frozen=True)
class BackgroundConfig:
    folder: str = knob("", "Folder of background images; empty for none.")
    training_frames: bool = knob(True, "Cut backgrounds from the real training images, with the objects erased.")
    procedural: float = knob(0.5, "Share of procedural backgrounds (all, where there are no images).", 0.0, 1.0)


@dataclass(frozen=True)
class ObjectExperiment(Experiment):
    """objects: that one network knows, each with an output of its own."""

    data: DataConfig = field(default_factory=DataConfig)
    objects: tuple[ObjectConfig, ...] = ()
    crop: CropConfig = field(default_factory=CropConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    real: RealConfig = field(default_factory=RealConfig)
    backgrounds: BackgroundConfig = field(default_factory=BackgroundConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    APART: ClassVar[tuple[str, ...]] = (DETECTOR, REFINER)

    def parts(self) -> "dict[str, Experiment]":
        from fm_pose_core.objects.comparison.experiment import RefinerExperiment
        from fm_pose_core.objects.detection.experiment import DetectorExperiment

        return {DETECTOR: DetectorExperiment.of(self), REFINER: RefinerExperiment.of(self)}

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        return BOX_EDGES

    def contract(self) -> Contract:
        cell = EXTRACTORS[self.network.extractor].cell
        cells = (self.crop.size // cell) ** 2 if self.network.surface else 0
        return object_contract(self.crop.size, len(self.objects), cells, self.network.distance)

    def windows(self, diameter: float) -> tuple[Crop, float]:
        """The rule of an object's windows, and the distance at which it fills one, metres; 0 without a second look."""
        nearest, rule = self.synthetic.viewpoints.distance[0], self.crop
        return Crop.around(diameter, nearest, rule.margin, rule.size), nearest * rule.zoom / rule.margin

    def read_data(self) -> "ObjectData":
        """Read the meshes and the real images. Raises InputError for what is missing."""
        _check(self)
        root = expanded(self.data.dataset)
        expect(root.is_dir(), "data.dataset", "the folder of a BOP dataset", root)
        dataset = BopDataset(root, expanded(self.data.labels) if self.data.labels else None)
        for k, x in enumerate(self.objects):
            expect(x.id in dataset.objects, f"objects[{k}].id", f"one of {sorted(dataset.objects)} in {root}", x.id)
        training, validation = _parts(self.data, dataset.instances(self.data.split, [x.id for x in self.objects]))
        assets = tuple(_assets(self, i, dataset, training) for i in range(len(self.objects)))
        photos = _photos(self.backgrounds, training, {x.id: a for x, a in zip(self.objects, assets, strict=True)})
        cell = EXTRACTORS[self.network.extractor].cell
        source = ObjectSource(assets, self.synthetic, self.real, photos, self.backgrounds.procedural, cell)
        models = [dataset.model(x.id) for x in self.objects]
        named = tuple(replace(m, name=x.name or m.name) for x, m in zip(self.objects, models, strict=True))
        names = [x.name for x in named]
        expect(len(set(names)) == len(names), "objects", "a different name each", names)
        return ObjectData(source, named, training, validation)


@dataclass(frozen=True)
class ObjectData:
    """source: of the samples. models: of the objects, under their names in the experiment, in the order of the
    network's outputs; the instances to train with and to validate on."""

    source: ObjectSource
    models: tuple[ObjectModel, ...]
    training: list[Instance]
    validation: list[Instance]

    def known(self) -> list[KnownObject]:
        """The objects with the way to their poses, one view of each window."""
        assets = self.source.objects
        solvers = [ObjectSolver(x.corners, x.crop, x.index, fill=x.fill) for x in assets]
        return [KnownObject(m, s) for m, s in zip(self.models, solvers, strict=True)]

    def validator(self) -> Validation | None:
        return Validation(self.known(), self.validation, self.training) if self.validation else None

    def write_bundle(self, path: Path, export: Export) -> ObjectBundle:
        known = self.known()
        calibration = calibrate(Asked.about(self.validation, export.network, known))
        scale = calibration.spread_scale
        parts = {k: x.file for k, x in export.parts.items()}
        compare = export.parts[REFINER].network if REFINER in parts else None
        things = list(zip(known, self.source.objects, strict=True))
        solved = calibration.asked.solved(scale)
        choices, refiner_scale = choose_refiners(compare, things, self.training, solved)
        stances = choose_stances(things, self.training, solved, export.support)
        if export.refine != "auto":
            choices = [replace(x, refined_by=export.refine.replace("none", "")) for x in choices]
        if REFINER in parts:
            parts[REFINER] = replace(parts[REFINER], spread_scale=refiner_scale)
        objects = [
            ObjectInBundle(
                m.name,
                m.id,
                m.minimum,
                m.maximum,
                m.diameter,
                a.crop.focal,
                m.symmetries,
                mesh_file(a.mesh),
                a.fill,
                x.noise.size,
                x.noise.size_sigma,
                x.noise.scale,
                x.refined_by,
                ways,
            )
            for m, a, x, ways in zip(self.models, self.source.objects, choices, stances, strict=True)
        ]
        file, of_distance = export.file(scale), calibration.distance_scale
        return write_object_bundle(path, file, objects, parts, of_distance, calibration.widen)


def _check(experiment: ObjectExperiment) -> None:
    nearest, farthest = experiment.synthetic.viewpoints.distance
    ids, size = [x.id for x in experiment.objects], experiment.crop.size
    expect(bool(ids), "objects", "at least one, such as [{id: 9}]", "none")
    expect(len(set(ids)) == len(ids), "objects", "a different id each", ids)
    for name in (x.name for x in experiment.objects if x.name):
        fits = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
        expect(fits, "objects", "names of letters, digits and _ (they become topics and frames)", repr(name))
    expect(size % 16 == 0, "crop.size", "a multiple of 16", size)
    expect(experiment.detector.size % 16 == 0, "detector.size", "a multiple of 16", experiment.detector.size)
    expect(nearest <= farthest, "synthetic.viewpoints.distance", "the nearest first", (nearest, farthest))
    appearance = experiment.real.appearance
    expect(not experiment.network.presence, "network.presence", "false for objects", True)
    taught = not experiment.network.surface or experiment.loss.points > 0
    expect(taught, "loss.points", "above 0 with network.surface", experiment.loss.points)
    unlit = appearance.light == appearance.repaint == 0.0
    expect(unlit, "real.appearance", "no light and no repaint: photographs are lit", appearance)


def _parts(config: DataConfig, real: list[Instance]) -> tuple[list[Instance], list[Instance]]:
    """The instances for training and those for validation. Raises InputError for an image in two parts."""
    images = {(x.scene_id, x.im_id) for x in real}
    validation = _named("data.validation_frames", config.validation_frames, images)
    report = _named("data.report_frames", config.report_frames, images)
    training = images - validation - report
    if config.training_frames:
        training = _named("data.training_frames", config.training_frames, images)
    for what, one, other in (
        ("no image in training and validation", training, validation),
        ("no reported image in training or validation", report, training | validation),
    ):
        shown = ", ".join(f"{scene}/{image}" for scene, image in sorted(one & other)[:5])
        expect(not shown, "data", what, f"SCENE/IMAGE {shown} in both")
    chosen = [[x for x in real if (x.scene_id, x.im_id) in part] for part in (training, validation)]
    return chosen[0], chosen[1]


def _named(key: str, frames: str, images: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The images (scene, image) that a text names; none for an empty one."""
    if not frames:
        return set()
    try:
        found = Frames.parse(frames).of(images)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    expect(bool(found), key, f"some of the split's {len(images)} images with these objects", f"none with {frames!r}")
    return found


def _assets(experiment: ObjectExperiment, index: int, dataset: BopDataset, training: list[Instance]) -> ObjectAssets:
    config = experiment.objects[index]
    model = dataset.model(config.id)
    mesh = load_mesh(model.mesh_path, MM).simplified(config.faces)
    rule, (crop, fill) = experiment.crop, experiment.windows(model.diameter)
    box = box_corners(model.minimum, model.maximum)
    assets = ObjectAssets(mesh, box, crop, index, model.symmetries if config.symmetries else (), fill, rule.zoomed)
    own = [x for x in training if x.object_id == config.id]
    if not experiment.how.sees_real:
        return assets
    expect(bool(own), "data.training_frames", f"images with object {config.id} ({model.name})", "none")
    photographed = max(x.camera.K[0, 0] for x in own) / crop.focal
    patch = crop.patch(float(np.clip(photographed, 1.0, FINEST)) if rule.zoom else 1.0)
    lights = LIGHTS if experiment.real.paired_light > 0 else 0
    views, colours = prepare_real_views(dataset, experiment.data.split, own, mesh, patch, assets.center, lights)
    if not experiment.synthetic.photographed:
        _warn_of_unreached(model.name, experiment.synthetic.viewpoints, [x.T_view_object for x in views])
    return replace(assets, patch=patch, views=views, colours=colours)


def _warn_of_unreached(name: str, viewpoints: ViewpointConfig, poses: list[Array]) -> None:
    unreached = sum(not reaches(viewpoints, T) for T in poses)
    if unreached > RARE * len(poses):
        text = "%s: %d of its %d photographs show it tilted, or from below, as no rendering does (synthetic.viewpoints)"
        log.warning(text + "; try: --set synthetic.photographed=0.3", name, unreached, len(poses))


def _photos(
    config: BackgroundConfig, training: list[Instance], assets: dict[int, ObjectAssets]
) -> list[NDArray[np.uint8]]:
    """Images that backgrounds are cut from."""
    photos = read_folder(expanded(config.folder)) if config.folder else []
    if config.training_frames:
        images: dict[Path, list[Instance]] = {}
        for x in training:
            images.setdefault(x.image_path, []).append(x)
        photos += [erased(path, group, assets) for path, group in images.items()]
    return photos


def erased(path: Path, instances: list[Instance], assets: dict[int, ObjectAssets]) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) uint8 with the boxes of `instances` painted over from their surroundings."""
    image = read_image(path)
    mask = np.zeros(image.shape[:2], np.uint8)
    for x in instances:
        points = x.camera.pixels(apply(x.T_camera_object, assets[x.object_id].corners))
        cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), 255)
    return cv2.inpaint(image, mask, 3, cv2.INPAINT_TELEA)
