"""Labels of hands: the cameras and joints of the known datasets, and files in the published format of predictions: one
line per frame with u, v (pixels) and d (millimetres) for each joint; a leading image name is accepted
(github.com/xinghaochen/awesome-hand-pose-estimation).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically
from fm_pose_core.geometry import Array
from fm_pose_core.hands.model.skeleton import joint_sets

MM = 1e-3
THRESHOLDS = (0.02, 0.04)  # metres; the paper discusses 20 mm, Figure 7 goes on to 80


@dataclass(frozen=True)
class HandDataset:
    """Camera (fx, fy, cx, cy in pixels) and the names of the joints in the files' order."""

    name: str
    fx: float
    fy: float
    cx: float
    cy: float
    joints: tuple[str, ...]

    def to_metres(self, uvd: Array) -> Array:
        """(..., 3) pixels, pixels, millimetres -> metres in the camera's optical frame."""
        z = uvd[..., 2] * MM
        return np.stack([(uvd[..., 0] - self.cx) / self.fx * z, (uvd[..., 1] - self.cy) / self.fy * z, z], -1)

    def to_uvd(self, points: Array) -> Array:
        """The inverse of `to_metres`."""
        z = points[..., 2]
        return np.stack([points[..., 0] / z * self.fx + self.cx, points[..., 1] / z * self.fy + self.cy, z / MM], -1)


def _names(joint_set: str) -> tuple[str, ...]:
    return tuple(x.name for x in joint_sets()[joint_set])


DATASETS: Mapping[str, HandDataset] = {
    "nyu": HandDataset("nyu", 588.03, 587.07, 320.0, 240.0, _names("nyu14")),
    "icvl": HandDataset("icvl", 240.99, 240.96, 160.0, 120.0, _names("icvl16")),
}


def read_labels(path: str | Path, dataset: HandDataset) -> tuple[list[str], Array]:
    """The images' names ("" where there is none), and the joints (N, J, 3), metres. Raises InputError that names the
    line."""
    path = Path(path)
    expect(path.is_file(), str(path), "a file with a line of joints per frame", "nothing there")
    wanted = 3 * len(dataset.joints)
    names, rows = [], []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            words = line.replace(",", " ").split()
            if not words:
                continue
            names.append(words.pop(0) if len(words) == wanted + 1 else "")
            expect(
                len(words) == wanted,
                f"{path}:{number}",
                f"{wanted} numbers ({len(dataset.joints)} joints of {dataset.name})",
                len(words),
            )
            try:
                rows.append([float(w) for w in words])
            except ValueError:
                raise InputError(f"{path}:{number}: expected numbers, got {line.strip()[:80]!r}") from None
    expect(bool(rows), str(path), "at least one frame", "none")
    return names, dataset.to_metres(np.array(rows).reshape(len(rows), -1, 3))


def write_joints(path: str | Path, dataset: HandDataset, joints: Array, names: Sequence[str] | None = None) -> None:
    """joints (N, J, 3) metres, in the published format; with the images' names in front if given. Atomic."""
    lines = [" ".join(f"{x:.3f}" for x in row.ravel()) for row in dataset.to_uvd(joints)]
    if names is not None:
        lines = [f"{name} {line}" for name, line in zip(names, lines, strict=True)]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
