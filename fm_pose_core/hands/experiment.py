"""An experiment with hands, and the data that it names."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.contract import Contract, hand_contract
from fm_pose_core.errors import expect
from fm_pose_core.files import expanded, parse_ids
from fm_pose_core.geometry import Array
from fm_pose_core.hands.bundle import HandBundle, HandEntry, write_hand_bundle
from fm_pose_core.hands.crop import HandCrop, HandCropConfig
from fm_pose_core.hands.frames import HandFrames, read_frames
from fm_pose_core.hands.labels import DATASETS
from fm_pose_core.hands.model.fitting import fit_poses, fit_shape
from fm_pose_core.hands.model.skeleton import Landmark, Skeleton, joint_sets, skeleton_bones
from fm_pose_core.hands.model.skin import SkinnedHand, Thickness, build_skin, tips_of
from fm_pose_core.hands.samples import HandSource, HandSyntheticConfig
from fm_pose_core.hands.validation import HandValidation, spread_scale
from fm_pose_core.hands.views import HandWindowsConfig
from fm_pose_core.learning.experiment import Experiment, Export

JOINT_SET = {"nyu": "nyu14", "icvl": "icvl16"}
SHAPE_FRAMES = 300  # of a person, from which the bone lengths are fitted


@dataclass(frozen=True)
class HandConfig:
    layout: str = knob("nyu", "Layout of the dataset's files.", choices=tuple(DATASETS))
    dataset: str = knob(
        "", "Folder of the dataset; environment variables are expanded. Empty: no real images, for synthetic_only."
    )
    split: str = knob("train", "Split with the real depth maps.")
    frames: str = knob("", "Which of them to train with, such as '0-4999'; empty for all.")
    validation_split: str = knob("test", "Split to validate on; empty for none.")
    validation_frames: str = knob("", "Which of them to validate on; empty for all.")
    left: bool = knob(False, "Whether the hands are left ones.")
    name: str = knob("hand", "Name of what is detected.")
    shapes: int = knob(6, "Different random hands that are rendered.", 1, 100)
    shape_spread: float = knob(0.06, "Standard deviation of their bone lengths and thickness.", 0.0, 0.5)


@dataclass(frozen=True)
class HandExperiment(Experiment):
    hand: HandConfig = field(default_factory=HandConfig)
    crop: HandCropConfig = field(default_factory=HandCropConfig)
    synthetic: HandSyntheticConfig = field(default_factory=HandSyntheticConfig)
    real: HandWindowsConfig = field(default_factory=HandWindowsConfig)

    def contract(self) -> Contract:
        joints = len(DATASETS[self.hand.layout].joints)
        return hand_contract(joints, self.crop.size, self.crop.cube, self.network.presence)

    def read_data(self) -> "HandData":
        return read_data(self)


@dataclass(frozen=True)
class HandData:
    """source: of the samples; config; training and validation: frames, None where there are none."""

    source: HandSource
    config: HandConfig
    training: HandFrames | None
    validation: HandFrames | None

    def validator(self) -> HandValidation | None:
        if self.validation is None:
            return None
        return HandValidation(self.validation, self.source.crop, self.source.presence)

    def write_bundle(self, path: Path, export: Export) -> HandBundle:
        expect(export.refine == "auto", "refine", "auto for hands, which are not refined", export.refine)
        joint_set, crop = JOINT_SET[self.config.layout], self.source.crop.config
        names = tuple(x.name for x in joint_sets()[joint_set])
        bones = skeleton_bones(joint_set)
        hand = HandEntry(self.config.name, names, bones, self.config.left, crop.cube, crop.size)
        scale = spread_scale(export.network, self.source.crop, self.validation)
        return write_hand_bundle(path, export.file(scale), hand)


def read_data(experiment: HandExperiment) -> HandData:
    """Read the depth maps' annotations, fit the hand model to them, and build the hands to render. Raises InputError
    for what is missing."""
    c, crop, presence = experiment.hand, HandCrop(experiment.crop), experiment.network.presence
    landmarks = joint_sets()[JOINT_SET[c.layout]]
    expect(experiment.loss.points == 0.0, "loss.points", "0 for hands: L_p is made for objects", experiment.loss.points)
    for name in ("surface", "distance"):
        expect(not getattr(experiment.network, name), f"network.{name}", "false for hands", True)
    if presence:
        shares = (experiment.loss.presence, experiment.synthetic.absent, experiment.real.absent)
        wanted = "loss.presence, synthetic.absent and real.absent above 0, which teach it"
        expect(min(shares) > 0, "network.presence", wanted, shares)
    expect(experiment.crop.size % 16 == 0, "crop.size", "a multiple of 16", experiment.crop.size)
    training, validation = _parts(c)
    needed = experiment.how.sees_real
    expect(training is not None or not needed, "hand.dataset", f"a dataset for {experiment.method}", "none")
    rng = np.random.default_rng([experiment.schedule.seed, 7])
    hands = [random_hand(landmarks, c, rng) for _ in range(c.shapes)]
    if training is None:
        given = np.zeros((0, hands[0][0].skeleton.size))
        source = HandSource(crop, experiment.synthetic, experiment.real, hands, given, presence=presence)
        return HandData(source, c, training, validation)
    fitted, of_frame, poses = fit_frames(training, landmarks, c.left)
    pairs = (training, fitted, of_frame, poses, presence)
    source = HandSource(crop, experiment.synthetic, experiment.real, hands, np.stack(poses), *pairs)
    return HandData(source, c, training, validation)


def _parts(c: HandConfig) -> tuple[HandFrames | None, HandFrames | None]:
    """The frames for training and those for validation, of which every joint is known."""
    if not c.dataset:
        return None, None
    training = _frames(c, c.split, c.frames)
    if not c.validation_split:
        return training, None
    validation = _frames(c, c.validation_split, c.validation_frames)
    overlap = set(training.paths) & set(validation.paths)
    expect(not overlap, "hand.frames", "no frame in training and validation", f"{len(overlap)} in both")
    return training, validation


def _frames(c: HandConfig, split: str, ids: str) -> HandFrames:
    frames = read_frames(c.layout, expanded(c.dataset), split)
    if ids:
        wanted = sorted(parse_ids(ids))
        inside = bool(wanted) and wanted[-1] < len(frames)
        expect(inside, f"frames of {split}", f"numbers from 0 to {len(frames) - 1}", ids)
        frames = frames.chosen(wanted)
    known = frames.fully_labelled()
    if len(known) < len(frames):
        print(f"{split}: {len(frames) - len(known)} of {len(frames)} frames are left out, some joints are not known")
    return known


def fit_frames(
    frames: HandFrames, landmarks: tuple[Landmark, ...], left: bool
) -> tuple[list[tuple[SkinnedHand, tuple[Landmark, ...]]], NDArray[np.int64], list[Array]]:
    """A hand for each person in `frames`, which of them each frame shows, and each frame's pose."""
    fitted: list[tuple[SkinnedHand, tuple[Landmark, ...]]] = []
    of_frame = np.zeros(len(frames), np.int64)
    poses: list[Array] = [np.zeros(0)] * len(frames)
    for k, person in enumerate(np.unique(frames.subjects)):
        own = np.nonzero(frames.subjects == person)[0]
        joints = frames.joints[own]
        skeleton, placed = fit_shape(Skeleton(left=left), landmarks, joints[:: max(1, len(joints) // SHAPE_FRAMES)])
        fitted.append((build_skin(skeleton, tips=tips_of(placed)), placed))
        of_frame[own] = k
        for i, pose in zip(own, fit_poses(skeleton, placed, joints).pose, strict=True):
            poses[i] = pose
    return fitted, of_frame, poses


def random_hand(
    landmarks: tuple[Landmark, ...], c: HandConfig, rng: np.random.Generator
) -> tuple[SkinnedHand, tuple[Landmark, ...]]:
    """A hand of average build, larger or smaller, with longer or shorter fingers."""
    average = Skeleton(left=c.left)
    offsets = np.stack([b.offset for b in average.bones])
    whole = 1.0 + rng.normal(scale=c.shape_spread)
    scale = whole * (1.0 + rng.normal(scale=c.shape_spread / 2, size=(len(offsets), 1)))
    skeleton = average.with_offsets(offsets * scale)
    placed = tuple(Landmark(x.name, x.bone, x.offset * whole) for x in landmarks)
    thickness = Thickness(scale=float(whole * (1.0 + rng.normal(scale=c.shape_spread))))
    return build_skin(skeleton, thickness, tips_of(placed)), placed
