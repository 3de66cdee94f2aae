"""From a YAML file (config/train/*.yaml) to an experiment."""

from pathlib import Path
from typing import Any

from fm_pose_core.config import changed, from_dict, read_yaml, to_dict
from fm_pose_core.errors import InputError
from fm_pose_core.hands.experiment import HandExperiment
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.objects.experiment import ObjectExperiment


def experiment_from(values: dict[str, Any], where: str = "") -> Experiment:
    """An ObjectExperiment, or, if there is a section `hand`, a HandExperiment. Raises InputError that names an unknown
    key."""
    return from_dict(
        HandExperiment if isinstance(values, dict) and "hand" in values else ObjectExperiment, values, where
    )


def load_experiment(path: str | Path, changes: list[str] | None = None) -> Experiment:
    """Read a YAML file, put `changes` (key.key=value) in, and build the experiment; errors begin with the file's
    name."""
    values = read_yaml(path)
    try:
        experiment = experiment_from(values)
        return experiment_from(changed(to_dict(experiment), changes)) if changes else experiment
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
