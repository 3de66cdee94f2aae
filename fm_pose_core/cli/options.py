"""What the verbs share: how a command is declared, which options were given, and the options of an engine."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fm_pose_core.config import EngineConfig, EstimatorConfig, from_dict
from fm_pose_core.errors import expect

if TYPE_CHECKING:
    from fm_pose_core.learning.experiment import Experiment


class Noted(argparse.Action):
    """Stores the value and notes the option's name in `given`, so that an option can be refused whatever its value."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.given = [*getattr(namespace, "given", []), self.option_strings[0]]


def given(args: argparse.Namespace, *options: str) -> str:
    """Those of `options` (of the action Noted, or store_true) that the command line has, separated by commas."""
    noted = getattr(args, "given", [])
    return ", ".join(o for o in options if o in noted or getattr(args, o[2:].replace("-", "_")) is True)


def command(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], help_text: str, example: str
) -> argparse.ArgumentParser:
    """A command with its description and an example, which calls `run`."""
    p: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.set_defaults(run=run)
    return p


def group(verbs: Any, name: str, help_text: str) -> Any:
    """A verb with commands of its own."""
    p = verbs.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    return p.add_subparsers(dest="what", required=True, metavar="WHAT")


def show_log() -> None:
    """What the package tells of work that takes long, on stderr."""
    import logging

    logging.basicConfig(format="fm-pose: %(message)s")
    logging.getLogger("fm_pose_core").setLevel(logging.INFO)


def run_experiment(run: Path) -> "Experiment":
    """The experiment of a run's folder. Raises InputError, also for the folder of a part of a run."""
    from fm_pose_core.tasks import load_experiment

    configuration, above = run / "config.yaml", run.resolve().parent / "config.yaml"
    expect(configuration.is_file(), str(run), "the folder of a training run", "no config.yaml")
    if above.is_file():
        part = run.resolve().name in load_experiment(above).parts()
        whole = f"{run.parent}, with --part {run.name} to train it"
        expect(not part, str(run), f"the folder of a training run, as {whole}", "a part of one")
    return load_experiment(configuration)


DEFAULTS = {"refine": "auto"}  # no camera waits for the command line


def add_engine_options(p: argparse.ArgumentParser, *names: str) -> None:
    """--backend, --precision and --views, or those of the names alone, as EstimatorConfig describes them. Defaults
    other than its own: of DEFAULTS."""
    for name in names or ("backend", "precision", "views"):
        f = EstimatorConfig.__dataclass_fields__[name]
        default = DEFAULTS.get(name, f.default)
        text = f"{f.metadata['description']} (default: %(default)s)"
        kind: dict[str, Any] = {"choices": f.metadata["choices"]}
        if not kind["choices"]:
            kind = {"type": int, "metavar": "N"}
        p.add_argument(f"--{name}", action=Noted, default=default, help=text, **kind)


E = TypeVar("E", bound=EngineConfig)


def estimator_config(kind: type[E], args: argparse.Namespace, **more: object) -> E:
    """Of the engine's options, and `more` of its fields."""
    options = {"backend": args.backend, "precision": args.precision, "views": args.views}
    return from_dict(kind, {**options, **more})
