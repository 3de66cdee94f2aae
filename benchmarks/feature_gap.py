"""The effect of the learned mapping (section 3.2 of the paper): how far the features of photographs that were not
trained with are from those of renderings under the same pose, before and after g. Mean, standard deviation and 99th
percentile of the absolute differences of all coefficients, in standard deviations of the renderings' features over
images. Prints JSON.

    FM_POSE_DATA=… python benchmarks/feature_gap.py RUN [RUN …] [--pairs 150] [--picture FILE]

The photographs are those of the frames that report (`data.report_frames`), else those that validate. The picture is the
paper's Figure 3 for the first run, a line for each of some pairs: photograph, rendering, and the absolute differences
before and after g. The coefficients of a cell are a square where the cell is; blue is 0, red is 3 or more.
"""

import argparse
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fm_pose_core.hands.experiment import HandExperiment
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.learning.export import fused_of
from fm_pose_core.learning.networks import FeatureMapping
from fm_pose_core.objects.experiment import ObjectExperiment
from fm_pose_core.tasks import load_experiment

# Validation photographs (visible by more than 25 %) as they are, slightly displaced; their renderings are drawn over
# them. Of hands, depth maps.
AS_IT_IS = [
    "real.novel_views=0",
    "real.plain=1",
    "real.in_plane=0",
    "real.rescale=0",
    "real.appearance.occluders=0",
    "real.appearance.colour=0",
    "real.appearance.blur=0",
    "real.appearance.noise=0",
]
HAND_AS_IT_IS = [
    "real.in_plane=0",
    "real.rescale=0",
    "real.displacement=0.005",
    "real.astray=0",
    "real.uses_per_view=1",
]


TILE, LINES, RED = 256, 4, 3.0  # pixels; pairs in the picture; the difference that is drawn red


@torch.inference_mode()
def differences(run: Path, pairs: int) -> tuple[list[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Photographs and their renderings, (N, S, S, C) each; absolute differences (N, L, D) of their features before and
    after g (only before where there is none)."""
    experiment = load_experiment(run / "config.yaml")
    network = fused_of(run, experiment)
    changes = ["method=feature_mapping", *_validation_as_training(experiment)]
    source = load_experiment(run / "config.yaml", changes).read_data().source
    _, T_M = source.open(False, True, np.random.default_rng(0))
    assert T_M is not None
    drawn = [T_M.draw() for _ in range(pairs)]
    T_M.close()
    images = [np.stack([d[k] for d in drawn]) for k in (0, 1)]  # real, rendered
    real, rendered = (network.f(FeatureMapping.normalise(torch.from_numpy(x))) for x in images)
    spread = rendered.std(0).mean()
    found = {"before": ((real - rendered).abs() / spread).numpy()}
    if not isinstance(network.g, torch.nn.Identity):
        found["after"] = ((network.g(real) - rendered).abs() / spread).numpy()
    return images, found


def figures(values: NDArray[np.float32]) -> dict[str, float]:
    """What section 3.2 tells of the differences, and how large the large ones are."""
    named = {"mean": values.mean(), "std": values.std(), "99 %": np.percentile(values, 99)}
    return {name: round(float(value), 3) for name, value in named.items()}


def figure_3(images: list[NDArray[np.uint8]], found: dict[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Lines of photograph, rendering, and the differences before and after g, (H, W, 3) RGB."""
    lines = []
    for i in np.linspace(0, len(images[0]) - 1, LINES).round().astype(int):
        windows = [np.repeat(x[i], 3, -1) if x.shape[-1] == 1 else x[i] for x in images]
        windows = [np.uint8(127 - 127 * x) if x.dtype != np.uint8 else x for x in windows]  # depth: near is bright
        lines.append(np.hstack([_enlarged(x) for x in (*windows, *(_mosaic(d[i]) for d in found.values()))]))
    return np.vstack(lines)


def _mosaic(difference: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(L, D), L a square number -> RGB, the coefficients of each cell in a square at the cell's place."""
    cells, inner = (math.ceil(math.sqrt(n)) for n in difference.shape)
    difference = np.pad(difference, ((0, 0), (0, inner**2 - difference.shape[1])))
    square = difference.reshape(cells, cells, inner, inner).transpose(0, 2, 1, 3).reshape(cells * inner, -1)
    bytes_ = np.uint8(255 * np.clip(square / RED, 0, 1))
    return cv2.cvtColor(cv2.applyColorMap(bytes_, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_NEAREST)


def _validation_as_training(experiment: Experiment) -> list[str]:
    if isinstance(experiment, HandExperiment):
        c = experiment.hand
        own = [f"hand.split={c.validation_split}", f"hand.frames='{c.validation_frames}'"]
        return [*own, "hand.validation_split=''", *HAND_AS_IT_IS]
    assert isinstance(experiment, ObjectExperiment)
    frames = experiment.data.report_frames or experiment.data.validation_frames
    parts = [f"data.training_frames={frames}", "data.validation_frames=", "data.report_frames="]
    return [*parts, *AS_IT_IS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a training run")
    parser.add_argument("--pairs", type=int, default=150, help="how many pairs (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the paper's Figure 3 for the first run")
    arguments = parser.parse_args()
    told = {}
    for run in arguments.runs:
        images, found = differences(run, arguments.pairs)
        told[run.name] = {name: figures(values) for name, values in found.items()}
        if arguments.picture and run is arguments.runs[0]:
            cv2.imwrite(str(arguments.picture), figure_3(images, found)[..., ::-1])
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
