"""Checkpoints of a run: written atomically, read without running any code in them, and refused for another
configuration by the names of the keys that differ."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fm_pose_core.config import from_dict, to_dict
from fm_pose_core.errors import InputError, expect

LATEST, PRETRAINED = "checkpoint.pt", "pretrained.pt"

State = dict[str, Any]


def write(path: Path, state: State, experiment: Any) -> None:
    """Save `state`, with the configuration, as a whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    torch.save({**state, "config": json.dumps(to_dict(experiment))}, temporary)
    os.replace(temporary, path)


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
