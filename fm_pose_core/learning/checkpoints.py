"""Checkpoints of a run: written atomically, read without running any code in them, and refused for another
configuration by the names of the keys that differ."""

import contextlib
import fcntl
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fm_pose_core.config import from_dict, to_dict
from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically

LATEST, PRETRAINED, LOCK = "checkpoint.pt", "pretrained.pt", ".lock"
AVERAGE, BEGINNING = "average", "beginning"  # keys of the mean of the weights, and of those that it began with
MODEL = "model."  # what begins the names of the objective's weights

State = dict[str, Any]
log = logging.getLogger(__name__)


def write(path: Path, state: State, experiment: Any) -> None:
    """Save `state`, with the configuration, as a whole or not at all."""
    buffer = io.BytesIO()
    torch.save({**state, "config": json.dumps(to_dict(experiment))}, buffer)
    write_atomically(path, buffer.getvalue())


@contextlib.contextmanager
def expected(path: Path, what: str) -> Iterator[None]:
    """Raises InputError where the state in `path` turns out to be of something else than `what`."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # torch has none of its own
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: expected {what}, got {type(error).__name__}: {text}") from None


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """While one training uses the folder `run`. Raises InputError if another does."""
    with (run / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{run}: expected a folder of one training, got another training in it") from None
        except OSError as error:
            log.warning("%s cannot be locked against a second training: %s", run, error)
        yield


def read(path: Path, device: torch.device, what: str, kind: type[Any]) -> State:
    """What `write` saved; its `config` as a mapping, with the defaults of keys that `kind` of experiment did not have
    yet. Raises InputError that says `what` was expected."""
    expect(path.is_file(), str(path), what, "nothing there")
    try:
        state: State = torch.load(path, map_location=device, weights_only=True)
        config = json.loads(state["config"])
    except Exception as error:  # torch names no exception of its own for a broken file
        raise InputError(f"{path}: expected {what}, got {type(error).__name__}: {error}") from None
    with contextlib.suppress(InputError):  # keys that are no more: `expect_same` will name them
        config = to_dict(from_dict(kind, config))
    return {**state, "config": config}


def weights(state: State) -> State:
    """Of the network that a training has made: their mean where it was kept, else the latest."""
    latest = {k.removeprefix(MODEL): v for k, v in state["objective"].items() if k.startswith(MODEL)}
    return dict(state.get(AVERAGE, latest))


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str = "") -> list[str]:
    """The keys in which two configurations differ, as "loss.huber (0.15, here 0.0)"."""
    found: list[str] = []
    for key in dict.fromkeys([*ours, *theirs]):
        a, b, name = theirs.get(key), ours.get(key), f"{where}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{name}.")
        elif a != b:
            found.append(f"{name} ({a}, here {b})")
    return found


def expect_same(path: Path, what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise InputError that names the keys which differ."""
    found = differences(theirs, ours)
    expect(not found, str(path), what, f"another {', '.join(found[:5])}" + (", …" if len(found) > 5 else ""))
