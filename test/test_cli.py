"""`fm-pose` as a user calls it."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_bop
import toy_bundle as toy

from fm_pose_core.cli import main
from fm_pose_core.cli.bundle import architecture_text
from fm_pose_core.config import read_configuration
from fm_pose_core.objects.bop import read_results
from fm_pose_core.tasks import load_experiment

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bop.write_tiny_bop(tmp_path_factory.mktemp("data") / "tiny")


# The commands and the modules of fm_pose_core.cli that run them.
COMMANDS = {
    "train": "train",
    "export": "export",
    "evaluate bop": "evaluate_bop",
    "evaluate hand": "evaluate_hand",
    "model": "model",
    "relabel": "relabel",
    "download bop": "download",
    "simulate": "simulate",
    "infer": "infer",
    "bundle show": "bundle",
    "bundle configuration": "bundle",
    "engine build": "engine",
    "engine check": "engine",
}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    if command:
        assert f"example:\n  fm-pose {command} " in text


def test_the_examples_in_the_help_are_valid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []
    for module in COMMANDS.values():
        monkeypatch.setattr(f"fm_pose_core.cli.{module}.run", called.append)
    monkeypatch.setattr("fm_pose_core.cli.bundle.print_configuration", called.append)
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        example = re.search(r"example:\n  fm-pose (.*)", capsys.readouterr().out)
        assert example and main(example[1].split()) == 0
    assert len(called) == len(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fm_pose_core.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = 'numpy cv2 torch yaml scipy tqdm plyfile openvino onnxruntime matplotlib huggingface_hub'.split()\n"
        "heavy = [name for name in heavy if name in sys.modules]\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])


def evaluate(root: Path, bundle: Path, *options: str) -> int:
    fast = ["--views", "1", "--backend", "onnxruntime"]
    return main(["evaluate", "bop", "--bundle", str(bundle), "--root", str(root), *fast, *options])


def test_evaluate_a_bundle_from_end_to_end(
    root: Path, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The toy network finds the box in frames 2 and 3, and nothing in frame 5."""
    out, report = tmp_path / "out.csv", tmp_path / "report"
    options = ["--split", "test", "--window", "gt", "--csv", str(out), "--output", str(report)]
    assert evaluate(root, toy_bundle, *options) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("1 ")).split()
    assert row[2:4] == ["3", "2"] and row[4:7] == ["66.7", "66.7", "66.7"]  # n, found; shares
    found = read_results(out)
    assert [(r.scene_id, r.im_id, r.object_id) for r in found] == [(1, 2, 1), (1, 3, 1)]
    for r in found:
        np.testing.assert_allclose(r.T_camera_object[:3, 3], tiny_bop.truth(r.im_id, 1)[:3, 3], atol=2e-3)
        assert 0 < r.score <= 1 and 0 < r.time < 10
    assert json.loads((report / "evaluation.json").read_text())["settings"]["backend"].startswith("onnxruntime")
    assert (report / "index.html").is_file()

    # The file scores as the run did.
    assert main(["evaluate", "bop", "--results", str(out), "--root", str(root), "--object", "1"]) == 0
    again = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("1 ")).split()
    assert again[2:9] == row[2:9]


def test_evaluate_displaced_and_a_part_of_the_frames(
    root: Path, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poses = []
    for name in ("a.csv", "b.csv"):
        options = ["--frames", "3,5", "--displace", "5", "--seed", "4", "--csv", str(tmp_path / name)]
        assert evaluate(root, toy_bundle, *options) == 0
        (result,) = read_results(tmp_path / name)
        poses.append(result.T_camera_object)
    np.testing.assert_array_equal(*poses)
    assert np.linalg.norm(poses[0][:3, 3] - tiny_bop.truth(3, 1)[:3, 3]) < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate bop --bundle nowhere --root {root}", "nowhere: expected a bundle"),
        ("evaluate bop --results nowhere.csv --root {root}", "nowhere.csv: expected a BOP result file"),
        ("evaluate bop --results {csv} --root nowhere", "nowhere: expected the folder of a BOP dataset"),
        ("evaluate bop --results {csv} --root {root} --split val", "split 'val'"),
        ("evaluate bop --results {csv} --root {root} --frames x", "frames: expected"),
        ("evaluate bop --results {csv} --root {root} --displace 0", "running a bundle, got --displace"),
        ("evaluate bop --results {csv} --root {root} --window gt --seed 0", "running a bundle, got --window, --seed"),
        ("evaluate bop --results {csv} --root {root} --views 4 --csv o.csv", "running a bundle, got --csv, --views"),
        ("evaluate bop --results {csv} --root {root} --backend auto --precision fp32", "got --backend, --precision"),
        ("evaluate bop --results {csv} --root {root} --keep-rejected", "running a bundle, got --keep-rejected"),
        ("simulate {out} --mesh a.glb --mapping b.yaml", "about hands, got --mesh, --mapping"),
        ("simulate {out} --sensor structured_light --fingers gestures", "about hands, got --sensor, --fingers"),
        ("simulate {out} --of hands --quality 82", "photographs of the object, got --quality"),
        ("evaluate bop --results {csv} --root {root} --object 3", "object id"),
        ("evaluate bop --bundle {bundle} --bundle {bundle} --root {root}", "one bundle per object"),
        ("evaluate bop --bundle {bundle} --root {root} --window here", "window: expected"),
        ("evaluate bop --bundle {bundle} --root {root} --displace -1", "displacement"),
        (
            "infer --bundle {bundle} --image no.png --camera 1,2,3,4 --window 1,2",
            "no.png: expected an image file, got no",
        ),
        ("train --resume {root}", "expected the folder of a training run, got no config.yaml"),
        ("export {root} {out}", "expected the folder of a training run, got no config.yaml"),
        ("train config/train/lmo_duck.yaml --set schedul.images=3 --output {out}", "expected one of method, network,"),
        ("relabel {root} --output {out} --objects 7", "expected images of objects [7], got none of [7]"),
        ("relabel {root} --split train --output {out}", "split 'train': expected one of"),
        ("relabel {root} --output {root}/test", "expected another folder than the dataset's split"),
        ("bundle show nowhere", "nowhere: expected a bundle"),
        ("bundle configuration {bundle}", "expected a bundle that tells how it was trained"),
        ("infer --bundle {bundle} --image {csv} --camera 1,2,3,4 --window 1,2", "expected a picture"),
        ("infer --bundle {bundle} --image {image} --camera 1,2,3 --window 1,2", "--camera: expected 4 numbers"),
        ("infer --bundle {bundle} --image {image} --camera 300,300,160,120 --window 1", "--window: expected 2 numbers"),
        (
            "infer --bundle {bundle} --image {image} --camera 300,300,160,120 --window 160,118 --output x.nope",
            "suffix of an image",
        ),
        ("download bop --dataset nothing --output {out}", "dataset: expected one of lm, lmo"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(
    arguments: str, message: str, root: Path, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.csv").write_text("scene_id,im_id,obj_id,score,R,t,time\n")
    image = root / "test" / "000001" / "rgb" / "000002.png"
    names = {"root": root, "csv": tmp_path / "r.csv", "bundle": toy_bundle, "image": image, "out": tmp_path / "out"}
    assert main([word.format(**names) for word in arguments.split()]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("fm-pose:")]
    assert message in error and len(lines) == 1 and "Traceback" not in error


@pytest.mark.parametrize("section", ["objects", "hand"])
def test_train_lists_all_keys_of_a_configuration(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--keys", section]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split(" (default: ")[0]: after for line, after in pairwise([*lines, ""]) if " (default: " in line}
    assert all(after.startswith("    ") for after in listed.values())  # each has a description
    folder = Path(__file__).parents[1] / "config" / "train"
    files = [read_configuration(path) for path in sorted(folder.glob("*.yaml"))]
    for values in (v for v in files if section in v):
        assert set(paths(values)) <= listed.keys()
    assert "base" in listed
    assert len(listed) > 30


def paths(values: object, where: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for key, inner in values.items():
            yield from paths(inner, f"{where}.{key}" if where else key)
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        for inner in values:
            yield from paths(inner, f"{where}[]")
    else:
        yield where


def test_a_package_that_is_not_installed_is_named() -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom fm_pose_core.cli import main\n"
        "sys.exit(main(['train', 'config/train/lmo_duck.yaml']))"
    )
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "fm-pose: this needs torch: make environment, or pip install '.[train]'\n"


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fly"], ["evaluate", "bop"], ["evaluate", "bop", "--root", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fm_pose_core.cli.bundle.run", interrupted)
    assert main(["bundle", "show", "x"]) == 130


def test_infer_finds_the_object_and_draws_it(
    root: Path, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = root / "test" / "000001" / "rgb" / "000003.png"
    K = tiny_bop.CAMERA.K
    camera = ",".join(str(x) for x in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    u, v = tiny_bop.FRAMES[3]
    arguments = [
        "infer",
        "--bundle",
        str(toy_bundle),
        "--image",
        str(image),
        "--camera",
        camera,
        "--window",
        f"{u},{v}",
        "--views",
        "1",
    ]
    assert main([*arguments, "--output", str(tmp_path / "o.png"), "--backend", "onnxruntime"]) == 0
    text = capsys.readouterr().out
    position = re.search(r"position +(\S+) (\S+) (\S+) m", text)
    assert position and "accepted     yes" in text
    np.testing.assert_allclose(
        [float(x) for x in position.groups()], toy.toy_pose(tiny_bop.CAMERA, u, v)[:3, 3], atol=2e-3
    )
    before, after = cv2.imread(str(image)), cv2.imread(str(tmp_path / "o.png"))
    changed = np.argwhere((before != after).any(-1))
    assert before.shape == after.shape and 100 < len(changed) < 5000
    assert np.abs(changed.mean(0)[::-1] - [u, v]).max() < 20


def test_bundle_show(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(toy_bundle)]) == 0
    text = capsys.readouterr().out
    assert "toy_box (id 1)" in text and "90.0 x 70.0 x 80.0 mm" in text and "128 x 128" in text
    for name in ("tugboat", "hand"):
        assert main(["bundle", "show", str(MODELS / name)]) == 0
        assert "…, compact, width 24, 256 features, with mapping g\n" in capsys.readouterr().out


def test_the_architecture_as_text() -> None:
    values = {"extractor": "compact_global", "width": 32, "features": 256, "mapping": False}
    assert architecture_text(values) == "compact_global, width 32, without mapping g"
    assert architecture_text({**values, "extractor": "vgg16", "mapping": True}) == "vgg16, with mapping g"
    assert architecture_text({"name": "toy"}) == "architecture unknown"


def test_the_written_csv_is_what_bop_reads(root: Path, toy_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert evaluate(root, toy_bundle, "--csv", str(out)) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["scene_id", "im_id", "obj_id", "score", "R", "t", "time"]
    assert all(len(r["R"].split()) == 9 and len(r["t"].split()) == 3 and float(r["time"]) > 0 for r in rows)
    assert float(rows[0]["t"].split()[2]) > 300  # millimetres


def test_module_entry() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fm_pose_core.cli", "--version"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0 and done.stdout.startswith("fm-pose ")


def test_resuming_takes_no_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "config.yaml", "--resume", "runs/x", "--set", "method=ddc"]) == 2
    assert "--resume: expected no other option" in (error := capsys.readouterr().err) and "CONFIG, --set" in error


def test_scoring_files_takes_no_options_of_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--groundtruth", "a.txt", "--predictions", "b.txt"]
    assert main(["evaluate", "hand", "--dataset", "nyu", *files, "--window", "gt", "--mirror"]) == 2
    assert "--predictions: expected no option that is about running a bundle" in (error := capsys.readouterr().err)
    assert "--window, --mirror" in error


def test_a_configuration_of_an_older_version_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.yaml").write_text("object: {id: 9}\n")
    assert main(["train", str(tmp_path / "old.yaml"), "--output", str(tmp_path / "run")]) == 2
    assert "`object` has become `data` and `objects`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lmo", "duck", "hand"])
def test_a_bundle_gives_the_configuration_of_its_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "configuration", str(MODELS / name)]) == 0
    path = tmp_path / "again.yaml"
    path.write_text(capsys.readouterr().out)
    told = json.loads((MODELS / name / "manifest.json").read_text())["training"]["configuration"]
    assert read_configuration(path) == told
    if name == "lmo":  # made by a code that has today's keys
        assert load_experiment(path).schedule.images == told["schedule"]["images"]
