"""Malformed files, some thousands at each boundary: answers or InputError, nothing else (malformed.py)."""

import warnings
from pathlib import Path

import pytest
from malformed import Boundary, attack, boundaries

pytest.importorskip("trimesh", reason="reading meshes needs trimesh (pip install '.[train]')")
CASES = {"bop": 1500, "network": 800, "mesh": 600, "configuration": 400}  # others are quicker


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Boundary]:
    return boundaries(tmp_path_factory.mktemp("good"))


NAMES = (
    *("bop", "results", "detections", "windows", "bundle", "hand_bundle", "network"),
    *("mesh", "annotations", "joints", "rig", "configuration", "frames", "archive"),
)


def test_every_boundary_is_in_the_list(known: dict[str, Boundary]) -> None:
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_malformed_files_are_read_or_refused(name: str, known: dict[str, Boundary], tmp_path: Path) -> None:
    cases = CASES.get(name, 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy and trimesh, about numbers that overflow
        outcome = attack(known[name], tmp_path, cases)
    assert outcome.failed == []
    assert outcome.read + outcome.refused == cases and outcome.refused > cases / 5
