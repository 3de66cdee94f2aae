"""The effect of the learned mapping (section 3.2 of the paper): how far the features of validation photographs are from
those of renderings under the same pose, before and after g. Mean and standard deviation of the absolute differences of
all coefficients, in standard deviations of the renderings' features over images. Prints JSON.

    FM_POSE_DATA=… python benchmarks/feature_gap.py RUN [RUN …]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

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


@torch.inference_mode()
def gap(run: Path, pairs: int) -> dict[str, dict[str, float]]:
    """Before and after the mapping; only before where there is no g."""
    experiment = load_experiment(run / "config.yaml")
    network = fused_of(run, experiment)
    changes = ["method=feature_mapping", *_validation_as_training(experiment)]
    source = load_experiment(run / "config.yaml", changes).read_data().source
    _, T_M = source.open(False, True, np.random.default_rng(0))
    assert T_M is not None
    drawn = [T_M.draw() for _ in range(pairs)]
    T_M.close()
    images = (torch.from_numpy(np.stack([d[k] for d in drawn])) for k in (0, 1))  # real, rendered
    real, rendered = (network.f(FeatureMapping.normalise(x)) for x in images)
    spread = rendered.std(0).mean()
    result = {"before": (real - rendered).abs() / spread}
    if not isinstance(network.g, torch.nn.Identity):
        result["after"] = (network.g(real) - rendered).abs() / spread
    return {name: {"mean": round(float(d.mean()), 3), "std": round(float(d.std()), 3)} for name, d in result.items()}


def _validation_as_training(experiment: Experiment) -> list[str]:
    if isinstance(experiment, HandExperiment):
        c = experiment.hand
        frames = [f"hand.split={c.validation_split}", f"hand.frames='{c.validation_frames}'"]
        return [*frames, "hand.validation_split=''", *HAND_AS_IT_IS]
    assert isinstance(experiment, ObjectExperiment)
    frames = [f"data.training_frames={experiment.data.validation_frames}", "data.validation_frames=''"]
    return [*frames, *AS_IT_IS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a training run")
    parser.add_argument("--pairs", type=int, default=150, help="how many pairs (default: %(default)s)")
    arguments = parser.parse_args()
    print(json.dumps({run.name: gap(run, arguments.pairs) for run in arguments.runs}, indent=2))


if __name__ == "__main__":
    main()
