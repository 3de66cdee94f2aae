"""The tasks, and which one an experiment or a bundle is of. A further task is a folder beside `objects` and `hands`,
and a line here."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core.bundle import Bundle, read_manifest
from fm_pose_core.config import changed, from_dict, read_configuration, to_dict
from fm_pose_core.errors import InputError, expect

if TYPE_CHECKING:  # an experiment needs torch, a bundle does not
    from fm_pose_core.learning.experiment import Experiment

MOVED = " (`object` has become `data` and `objects`)"


@dataclass(frozen=True)
class Task:
    """section: of a configuration, by which its experiments are known. experiment, bundle: classes as MODULE:NAME."""

    section: str
    experiment: str
    bundle: str


TASKS = {
    "object_pose": Task("objects", "objects.experiment:ObjectExperiment", "objects.bundle:ObjectBundle"),
    "hand_pose": Task("hand", "hands.experiment:HandExperiment", "hands.bundle:HandBundle"),
}


def load_bundle(path: str | Path) -> Bundle:
    """The bundle in a folder, of whatever task. Raises InputError."""
    task = read_manifest(Path(path))["task"]
    expect(task in TASKS, f"{path}: task", f"one of {', '.join(TASKS)}", repr(task))
    bundle: Bundle = _class(TASKS[task].bundle).load(path)
    return bundle


def experiment_from(values: dict[str, Any]) -> "Experiment":
    """The experiment that a configuration describes, by its section. Raises InputError that names an unknown key."""
    sections = [task.section for task in TASKS.values()]
    named = [s for s in sections if s in values]
    hint = "" if "object" not in values else " (is `object` meant for `objects`?)" if "data" in values else MOVED
    got = ", ".join(named) or f"none{hint}"
    expect(len(named) == 1, "configuration", f"one of the sections {', '.join(sections)}", got)
    experiment: Experiment = from_dict(experiment_class(named[0]), values)
    return experiment


def experiment_class(section: str) -> "type[Experiment]":
    """The class of the experiments whose configuration has this section."""
    (task,) = (task for task in TASKS.values() if task.section == section)
    found: type[Experiment] = _class(task.experiment)
    return found


def load_experiment(path: str | Path, changes: list[str] | None = None) -> "Experiment":
    """Read a YAML file with its `base`, put `changes` (key.key=value) in, and build the experiment; errors begin with
    the file's name."""
    values = read_configuration(path)
    try:
        experiment = experiment_from(values)
        return experiment_from(changed(to_dict(experiment), changes)) if changes else experiment
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _class(name: str) -> Any:
    module, _, cls = name.partition(":")
    return getattr(import_module(f"fm_pose_core.{module}"), cls)
