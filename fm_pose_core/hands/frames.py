"""Depth maps with annotated joints: readers for NYU (Tompson et al. 2014) and ICVL (Tang et al. 2014), and a writer in
NYU's layout.

NYU:   ROOT/{train,test}/depth_1_0000001.png (millimetres, green times 256 plus blue) and joint_data.mat, or labels.txt
ICVL:  ROOT/{Training,Testing}/Depth/… (16-bit PNG, millimetres) and labels.txt, or
{Training,Testing}.txt beside the folder

labels.txt is in the published format of predictions: an image's name, and u, v, d of each joint, a line. The camera is
the dataset's, unless there is a file camera.txt beside the labels: fx fy cx cy in pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import read_stored, write_atomically
from fm_pose_core.geometry import Array
from fm_pose_core.hands.labels import DATASETS, MM, HandDataset, read_labels, write_joints
from fm_pose_core.hands.matlab import read_array
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]
# The 14 joints that are scored among the 36 in joint_data.mat.
NYU_OF_36 = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
NYU_NAME = "depth_1_{:07d}.png"  # of a depth map of the first of three cameras, counted from 1
SUBJECTS = "subjects.txt"  # the number of the person in each frame, a line; simulations write it
NYU_SUBJECTS = {"test": 2440}  # frames from this one on (counted from 0) show the second person of the test set


@dataclass(frozen=True)
class HandFrames:
    """paths: of the depth maps, N; joints (N, J, 3) metres in the camera's frame, NaN where they are not known;
    subjects (N,): number of the person; unit: metres, of the numbers in 16-bit files."""

    dataset: HandDataset
    camera: Camera
    paths: tuple[Path, ...]
    joints: Array
    subjects: NDArray[np.int64]
    unit: float = MM

    def __len__(self) -> int:
        return len(self.paths)

    def depth(self, index: int) -> Depth:
        """(H, W) float32 metres, 0 where there is none. Raises InputError for a file that is no depth map."""
        return read_depth(self.paths[index], self.unit)

    def chosen(self, indices: Sequence[int] | NDArray[np.int64]) -> "HandFrames":
        """Those frames alone."""
        indices = np.asarray(indices, dtype=np.int64)
        return HandFrames(
            self.dataset,
            self.camera,
            tuple(self.paths[i] for i in indices),
            self.joints[indices],
            self.subjects[indices],
            self.unit,
        )

    def fully_labelled(self) -> "HandFrames":
        """Those frames alone of which every joint is known, as training needs them. Raises InputError if there are
        none."""
        known = np.isfinite(self.joints).all((1, 2))
        expect(bool(known.any()), str(self.paths[0].parent), "a frame with all joints known", "none")
        return self if known.all() else self.chosen(np.nonzero(known)[0])


def read_depth(path: str | Path, unit: float = MM) -> Depth:
    """A depth map in metres: a 16-bit PNG in steps of `unit` metres, or NYU's colour PNG with millimetres in green and
    blue. Raises InputError for another file."""
    values = read_stored(Path(path))
    if values.ndim == 3 and values.shape[2] >= 3 and values.dtype == np.uint8:
        return (values[..., 1].astype(np.float32) * 256 + values[..., 0]) * np.float32(MM)
    expect(
        values.ndim == 2 and values.dtype == np.uint16,
        str(path),
        "16 bit, or NYU's colour coding",
        f"{values.dtype} {values.shape}",
    )
    return values.astype(np.float32) * np.float32(unit)


def read_frames(name: str, root: str | Path, split: str) -> HandFrames:
    """The frames of one split of `nyu` or `icvl`. Raises InputError for what is missing or broken."""
    expect(name in DATASETS, "dataset", f"one of {', '.join(DATASETS)}", name)
    root = Path(root)
    expect(root.is_dir(), str(root), "the folder of a dataset", "no such folder")
    dataset = _of_camera(DATASETS[name], root / split / "camera.txt")
    if name == "nyu" and ((root / split / "joint_data.mat").is_file() or not (root / split / "labels.txt").is_file()):
        return _read_nyu(dataset, root, split)
    return _read_list(dataset, root, split)


def _of_camera(dataset: HandDataset, file: Path) -> HandDataset:
    """`dataset` with the camera in `file`, if there is one."""
    if not file.is_file():
        return dataset
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        fx, fy, cx, cy = (float(word) for word in text.split())
    except ValueError:
        raise InputError(f"{file}: expected fx fy cx cy in pixels, got {text[:60]!r}") from None
    finite = bool(np.isfinite([fx, fy, cx, cy]).all()) and fx > 0 and fy > 0
    expect(finite, str(file), "finite numbers, focal lengths above 0", text[:60])
    return replace(dataset, fx=fx, fy=fy, cx=cx, cy=cy)


def read_unlabelled(folder: str | Path, dataset: HandDataset, K: Array, unit: float = MM) -> HandFrames:
    """All depth maps (16-bit PNG in steps of `unit` metres) in `folder` and below, in the order of their names; no
    joints are known. K (3, 3): of their camera, pixels. Raises InputError if there are none."""
    paths = sorted(Path(folder).rglob("*.png"), key=lambda p: (p.parent, len(p.stem), p.stem))
    expect(bool(paths), str(folder), "depth maps (PNG)", "none")
    height, width = read_depth(paths[0]).shape
    for path in paths:
        values = read_stored(path)
        fits = values.dtype == np.uint16 and values.shape == (height, width)
        wanted = f"a depth map of 16 bit, {width}x{height} as the first"
        expect(fits, str(path), wanted, f"{values.dtype} {values.shape}")
    joints = np.full((len(paths), len(dataset.joints), 3), np.nan)
    camera = Camera(np.asarray(K, dtype=np.float64), width, height)
    return HandFrames(dataset, camera, tuple(paths), joints, np.zeros(len(paths), np.int64), unit)


def _read_nyu(dataset: HandDataset, root: Path, split: str) -> HandFrames:
    folder = root / split
    file = folder / "joint_data.mat"
    expect(file.is_file(), str(file), "NYU's annotations (or labels.txt beside it)", "nothing there")
    cameras = read_array(file, "joint_uvd")
    fits = cameras.ndim == 4 and cameras.shape[0] > 0 and cameras.shape[2:] == (36, 3)
    expect(fits, str(file), "joint_uvd of (cameras, N, 36, 3)", cameras.shape)
    uvd = cameras[0]
    expect(bool(np.isfinite(uvd).all()), str(file), "finite joint_uvd", "others")
    paths = tuple(folder / NYU_NAME.format(k + 1) for k in range(len(uvd)))
    present = np.array([p.is_file() for p in paths])
    expect(bool(present.any()), str(folder), "depth_1_0000001.png and on", "none")
    joints = dataset.to_metres(uvd[:, NYU_OF_36])
    subjects = _subjects(folder, len(uvd), NYU_SUBJECTS.get(split))
    frames = HandFrames(dataset, _camera(dataset, paths[int(present.argmax())]), paths, joints, subjects)
    return frames if present.all() else frames.chosen(np.nonzero(present)[0])


def _subjects(folder: Path, count: int, second: int | None = None) -> NDArray[np.int64]:
    """Who is seen in each frame: as subjects.txt says (a simulated dataset has one); without it a second person from
    frame `second` on."""
    file = folder / SUBJECTS
    if not file.is_file():
        return (np.arange(count) >= (count if second is None else second)).astype(np.int64)
    try:
        subjects = np.loadtxt(file, dtype=np.int64, ndmin=1)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{file}: expected a number in each line, got {error}") from None
    expect(len(subjects) == count, str(file), f"{count} lines", len(subjects))
    return subjects


def _read_list(dataset: HandDataset, root: Path, split: str) -> HandFrames:
    file = next((p for p in (root / split / "labels.txt", root / f"{split}.txt") if p.is_file()), None)
    if file is None:
        line = f"an image's name and {len(dataset.joints)} joints a line"
        raise InputError(f"{root}: expected {split}/labels.txt, with {line}, got nothing")
    names, joints = read_labels(file, dataset)
    expect(all(names), str(file), "an image's name in each line", "none in some")
    folders = (file.parent / "Depth", file.parent)
    paths = tuple(next((f / n for f in folders if (f / n).is_file()), folders[0] / n) for n in names)
    present = np.array([p.is_file() for p in paths])
    expect(bool(present.any()), str(folders[0]), f"the depth maps that {file.name} names, such as {names[0]}", "none")
    frames = HandFrames(
        dataset, _camera(dataset, paths[int(present.argmax())]), paths, joints, _subjects(file.parent, len(names))
    )
    return frames if present.all() else frames.chosen(np.nonzero(present)[0])


def _camera(dataset: HandDataset, path: Path) -> Camera:
    height, width = read_depth(path).shape
    return Camera(np.array([[dataset.fx, 0, dataset.cx], [0, dataset.fy, dataset.cy], [0, 0, 1]]), width, height)


class NyuWriter:
    """Writes one split in NYU's layout, a depth map at a time; `finish` writes the annotations."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.names = Path(folder), list[str]()

    def add(self, depth: Depth) -> None:
        """The next depth map (H, W), metres."""
        millimetres = np.rint(np.nan_to_num(depth) / MM).astype(np.uint16)
        coded = np.dstack([millimetres & 255, millimetres >> 8, np.zeros_like(millimetres)]).astype(np.uint8)
        name = NYU_NAME.format(len(self.names) + 1)
        write_atomically(self.folder / name, cv2.imencode(".png", coded)[1].tobytes())
        self.names.append(name)

    def finish(self, joints: Array) -> None:
        """joint_data.mat and labels.txt both: joints (N, 14, 3) metres in the frame of NYU's camera. Raises InputError
        unless there are as many as depth maps."""
        expect(len(joints) == len(self.names), "joints", f"those of {len(self.names)} depth maps", len(joints))
        dataset = DATASETS["nyu"]
        uvd = np.zeros((3, len(joints), 36, 3))
        uvd[0, :, NYU_OF_36] = dataset.to_uvd(joints).transpose(1, 0, 2)
        write_joints(self.folder / "labels.txt", dataset, joints, self.names)
        buffer = io.BytesIO()
        savemat(buffer, {"joint_uvd": uvd})
        write_atomically(self.folder / "joint_data.mat", buffer.getvalue())
