"""A CAD file becomes a model of a BOP dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fm_pose_core.cli import main
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, box_corners
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.models import Turns
from fm_pose_core.rendering.mesh import load_mesh

MIDDLE = np.array([10.0, 0.0, -20.0])


@pytest.fixture()
def cad(tmp_path: Path) -> Path:
    """A box of 4 x 4 x 8 cm whose middle is not the origin, in millimetres."""
    path = tmp_path / "box.stl"
    trimesh.creation.box((40, 40, 80), trimesh.transformations.translation_matrix(MIDDLE)).export(path)
    return path


def test_a_cad_file_in_any_unit_becomes_a_model(cad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cad.parent / "data"
    assert main(["model", str(cad), "--unit", "mm", "--id", "3", "--dataset", str(root)]) == 0
    out, err = capsys.readouterr()
    assert "12 triangles, 0.040 x 0.040 x 0.080 m, diameter 0.098 m" in out and "one colour" in err
    model = BopDataset(root).model(3)
    np.testing.assert_allclose(model.minimum, [-0.01, -0.02, -0.06], atol=1e-7)
    np.testing.assert_allclose(model.maximum, [0.03, 0.02, 0.02], atol=1e-7)
    assert model.diameter == pytest.approx(np.sqrt(0.04**2 + 0.04**2 + 0.08**2), abs=1e-6)
    np.testing.assert_allclose(load_mesh(model.mesh_path, 1e-3).box, [model.minimum, model.maximum], atol=1e-6)

    assert main(["model", str(cad), "--unit", "m", "--dataset", str(root)]) == 0
    assert "is --unit m right?" in capsys.readouterr().err
    assert sorted(BopDataset(root).objects) == [1, 3]


@pytest.mark.parametrize(
    ("symmetries", "count"), [(["z:4"], 3), (["z:4", "x:2"], 7), (["x:4", "y:4"], 23), (["z:all"], 35)]
)
def test_symmetries_turn_the_model_about_the_middle_of_its_box(cad: Path, symmetries: list[str], count: int) -> None:
    root = cad.parent / "data"
    options = [word for x in symmetries for word in ("--symmetry", x)]
    assert main(["model", str(cad), "--unit", "mm", "--dataset", str(root), *options]) == 0
    model = BopDataset(root).model(1)
    assert len(model.symmetries) == count
    corners = box_corners(model.minimum, model.maximum)
    for S in model.symmetries:
        np.testing.assert_allclose(apply(S, MIDDLE[None] / 1000)[0], MIDDLE / 1000, atol=1e-9)
    if symmetries == ["z:4", "x:2"]:  # such turns take the box onto itself
        for S in model.symmetries:
            distance = np.linalg.norm(apply(S, corners)[:, None] - corners, axis=-1)
            assert distance.min(1).max() < 1e-6


@pytest.mark.parametrize("text", ["z", "z:1", "w:2", "z:-2", "z:2:2", "2", "z:", "z:1e3"])
def test_what_is_no_symmetry_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="symmetry: expected x:2"):
        Turns.read(text)


def test_turns_that_do_not_fit_together_and_broken_files_are_refused(
    cad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = cad.parent / "data"
    words = ["model", str(cad), "--unit", "mm", "--dataset", str(root)]
    assert main([*words, "--symmetry", "x:5", "--symmetry", "y:7"]) == 2
    assert "endlessly many" in capsys.readouterr().err and not root.exists()
    (root / "models").mkdir(parents=True)
    (root / "models" / "models_info.json").write_text("[1, 2]")
    assert main(words) == 2
    assert "models_info.json: expected an object with ids as keys" in capsys.readouterr().err
    assert json.loads((root / "models" / "models_info.json").read_text()) == [1, 2]
    cad.write_text("no mesh\n")
    assert main(words) == 2
    assert "expected a mesh" in capsys.readouterr().err
