"""Rows of a table: one experiment with changes, trained and exported once. What is there is not trained again, so a
benchmark can be interrupted and called again."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fm_pose_core.errors import expect
from fm_pose_core.tasks import load_experiment

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """changes: of the configuration. pretrained: the row whose pretraining it shares."""

    changes: Sequence[str] = ()
    pretrained: str = ""


def fm_pose(*arguments: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "fm_pose_core.cli", *map(str, arguments)], check=True, cwd=ROOT)


def name_of(prefix: str, row: str, seed: int) -> str:
    """Of a run and of its bundle."""
    return f"{prefix}{row}" + (f"_seed{seed}" if seed else "")


def train(config: str, prefix: str, rows: dict[str, Row], row: str, seed: int, runs: Path) -> Path:
    """The row's bundle; trained and exported if it is not there. Raises InputError if what is there was made in another
    way."""
    name = name_of(prefix, row, seed)
    run, bundle = runs / name, runs / "bundles" / name
    changes = [*rows[row].changes, f"schedule.seed={seed}"]
    if (run / "config.yaml").is_file():
        same = load_experiment(run / "config.yaml") == load_experiment(ROOT / config, changes)
        expect(
            same,
            str(run),
            f"a run of {config} with {', '.join(changes)}",
            "one of another configuration; choose another --runs",
        )
    if bundle.is_dir():
        return bundle
    if (run / "checkpoint.pt").is_file():
        fm_pose("train", "--resume", run)
    else:
        options = [argument for change in changes for argument in ("--set", change)]
        pretrained = (
            ["--pretrained", runs / name_of(prefix, rows[row].pretrained, seed)] if rows[row].pretrained else []
        )
        fm_pose("train", config, "--output", run, *options, *pretrained)
    fm_pose("export", run, bundle)
    return bundle
