"""Trainings that are interrupted: by kills, signals, a full disk, a second training, damaged files. They go on, or say
why not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")

from box_training import checkpoint, command, environment, write_experiment
from rendered_bop import write_rendered_bop

from fm_pose_core.cli import main
from fm_pose_core.errors import InputError
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.export import export
from fm_pose_core.learning.trainer import Trainer
from fm_pose_core.tasks import load_experiment

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rendered_bop(tmp_path_factory.mktemp("bop") / "box")


def running(group: int) -> list[str]:
    """What is known of the group's processes that have not ended."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text())
    fields = [(line, line.rpartition(")")[2].split()) for line in lines]  # state, parent, group, …
    return [line for line, (state, _, number, *_) in fields if int(number) == group and state not in "ZX"]


def progress(run: Path) -> tuple[int, int]:
    """Phase and step of the checkpoint; a whole one can be read at any time."""
    if not (run / "checkpoint.pt").is_file():
        return 0, 0
    found = checkpoint(run)
    return found["phase"], found["step"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(dataset: Path, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "box.yaml", dataset, images=12_000)
    run = tmp_path / "run"
    process = subprocess.Popen(
        command("train", config, "--output", run),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "checkpoint.pt").is_file() and checkpoint(run)["phase"] == 1:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = checkpoint(run)
    assert before["phase"] == 1, "the run did not come to its second phase"
    trainer = Trainer(load_experiment(run / "config.yaml"), run)
    weights, mean = trainer.objective.state_dict(), trainer.network.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in before["objective"].items())
    assert all(torch.equal(mean[k], v) for k, v in before["average"].items())
    short = load_experiment(run / "config.yaml")
    resumed = subprocess.Popen(
        command("train", "--resume", run),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while time.monotonic() < deadline + 60 and resumed.poll() is None and checkpoint(run)["step"] <= before["step"]:
        time.sleep(0.1)
    os.killpg(resumed.pid, signal.SIGTERM)  # as systemd does: it saves, and says how to go on
    out, error = resumed.communicate(timeout=60)
    assert resumed.returncode == 130 and "--resume" in out and "Traceback" not in error
    made = export(load_experiment(run / "config.yaml"), run, tmp_path / "bundle")
    trained = made.manifest.training["trained"]
    assert 0 < trained["images"] < trained["of"] and trained["of"] >= 12_000
    after = checkpoint(run)
    assert after["step"] > before["step"] and json.loads(after["config"])["schedule"]["images"] == short.schedule.images


def test_kills_at_random_moments_lose_nothing_but_the_interval(dataset: Path, tmp_path: Path) -> None:
    """Four of them; FM_POSE_KILLS=20 for more. Each step is saved, so that many kills meet a file half written."""
    run, rng, reached = tmp_path / "run", np.random.default_rng(0), (0, 0)
    config = write_experiment(tmp_path / "box.yaml", dataset, images=20_000)
    for k in range(int(os.environ.get("FM_POSE_KILLS", "4"))):
        arguments = ("--resume", run) if (run / "checkpoint.pt").is_file() else (config, "--output", run)
        process = subprocess.Popen(command("train", *arguments), env=environment(), stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and not progress(run) > reached:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        process.kill()
        _, error = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"kill {k}: {error[-2000:]}"
        after = progress(run)
        assert after > reached, f"kill {k}: {error[-2000:]}"
        reached = after
    for line in (run / "log.jsonl").read_text().splitlines()[:-1]:  # the last may be torn
        json.loads(line)
    trainer = Trainer(load_experiment(run / "config.yaml"), run)
    weights = trainer.objective.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in checkpoint(run)["objective"].items())


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 1.0), (signal.SIGTERM, 3.0), (signal.SIGINT, 4.5)])
def test_a_signal_to_all_processes_while_they_begin_ends_them(
    number: signal.Signals, after: float, dataset: Path, tmp_path: Path
) -> None:
    config = write_experiment(tmp_path / "box.yaml", dataset, images=100_000, workers=1)
    process = subprocess.Popen(
        command("train", config, "--output", tmp_path / "run"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(after)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)  # also waits until the worker has closed its end
    assert process.returncode in (130, -number) and "Traceback" not in error
    deadline = time.monotonic() + 20
    while left := running(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_two_trainings_in_one_folder_are_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_experiment(tmp_path / "box.yaml", dataset)
    (tmp_path / "run").mkdir()
    with checkpoints.locked(tmp_path / "run"):
        assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 2
    assert "run: expected a folder of one training, got another training in it" in capsys.readouterr().err


def test_a_damaged_or_foreign_state_is_named_and_a_torn_log_is_not(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = write_experiment(tmp_path / "box.yaml", dataset), tmp_path / "run"
    assert main(["train", str(config), "--output", str(run)]) == 0
    state = checkpoint(run)
    for damage in (
        b"no checkpoint",
        {"config": state["config"]},
        {**state, "objective": {}},
        {**state, "objective": {k: v[:1] for k, v in state["objective"].items()}},
        {**state, "step": "many"},
        {**state, "optimizer": []},
    ):
        if isinstance(damage, bytes):
            (run / "checkpoint.pt").write_bytes(damage)
        else:
            torch.save(damage, run / "checkpoint.pt")
        assert main(["train", "--resume", str(run)]) == 2
        assert "checkpoint.pt: expected the checkpoint of a training run, got" in capsys.readouterr().err
    torch.save({**state, "step": state["step"] - 1}, run / "checkpoint.pt")
    with (run / "log.jsonl").open("ab") as log:
        log.write(b'{"images": 3\n[1]\n\xff\n{"images": "x"}\n{"ima')
    assert main(["train", "--resume", str(run)]) == 0
    assert all("images" in json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())


def test_a_full_disk_is_one_line_and_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    """Files of a limited size stand for it."""
    config, run = write_experiment(tmp_path / "box.yaml", dataset), tmp_path / "run"
    program = "import resource, sys; from fm_pose_core.cli import main; n = int(sys.argv.pop(1)); "
    program += "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); sys.exit(main())"
    arguments = [sys.executable, "-c", program, "20000", "train", str(config), "--output", str(run)]
    found = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "File too large" in found.stderr.splitlines()[-1]
    assert not (run / "checkpoint.pt").exists() and not list(run.glob(".checkpoint*"))


def test_a_finished_run_or_phase_is_not_trained_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill between two phases loses nothing: the next begins. A finished run stays as it is."""
    import torch

    config = write_experiment(tmp_path / "box.yaml", dataset)
    assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 0
    before = Trainer(load_experiment(tmp_path / "run" / "config.yaml"), tmp_path / "run")
    monkeypatch.setattr("fm_pose_core.learning.trainer.load", lambda *_: pytest.fail("no data is wanted"))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert f"is finished; the next step is: fm-pose export {tmp_path / 'run'}" in capsys.readouterr().out
    after = Trainer(load_experiment(tmp_path / "run" / "config.yaml"), tmp_path / "run")
    assert (after.phase_index, after.step) == (before.phase_index, before.step)
    for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resuming_with_another_configuration_is_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the name of the key that differs."""
    config = write_experiment(tmp_path / "box.yaml", dataset, images=12, pretrain_images=12)
    assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 0
    other = write_experiment(tmp_path / "other.yaml", dataset, images=24, pretrain_images=12)
    before = checkpoint(tmp_path / "run")["objective"]
    capsys.readouterr()
    assert main(["train", str(other), "--output", str(tmp_path / "run")]) == 2
    assert "got another schedule.images (12, here 24)\n" in capsys.readouterr().err
    change = ["--set", "loss.huber=0.15", "--set", "objects.0.faces=600"]
    assert main(["train", str(config), "--output", str(tmp_path / "run"), *change]) == 2
    error = capsys.readouterr().err
    assert "loss.huber (0.0, here 0.15)" in error and "objects" in error and "schedule" not in error
    after = checkpoint(tmp_path / "run")["objective"]
    assert all(torch.equal(after[k], v) for k, v in before.items())  # the run is as it was


def test_a_run_from_before_a_key_existed_goes_on(dataset: Path, tmp_path: Path) -> None:
    """With the key's default, also as the pretraining of another run; a key that is no more is named."""
    config = write_experiment(tmp_path / "box.yaml", dataset, images=12, pretrain_images=12)
    run = tmp_path / "run"
    assert main(["train", str(config), "--output", str(run)]) == 0

    def rewrite(change: Callable[[dict[str, Any]], object]) -> None:
        for name in ("checkpoint.pt", "pretrained.pt"):
            state = torch.load(run / name, weights_only=True)
            values = json.loads(state["config"])
            change(values)
            torch.save({**state, "config": json.dumps(values)}, run / name)

    rewrite(lambda values: (values["loss"].pop("points"), values["synthetic"]["appearance"].pop("noise")))
    assert main(["train", str(config), "--output", str(run)]) == 0
    assert main(["train", str(config), "--output", str(tmp_path / "other"), "--pretrained", str(run)]) == 0
    export(load_experiment(run / "config.yaml"), run, tmp_path / "bundle")
    rewrite(lambda values: values["loss"].update({"phlogiston": 1.0}))
    with pytest.raises(InputError, match=r"loss\.phlogiston \(1\.0, here None\)"):
        Trainer(load_experiment(run / "config.yaml"), run)


def test_a_run_from_before_weights_were_averaged_goes_on(dataset: Path, tmp_path: Path) -> None:
    """Nor did its optimizer know of parameters that learn more slowly."""
    config = write_experiment(tmp_path / "box.yaml", dataset, images=12, pretrain_images=12)
    run = tmp_path / "run"
    assert main(["train", str(config), "--output", str(run)]) == 0
    state = checkpoint(run)
    state["step"] -= 1
    del state["average"]
    for group in state["optimizer"]["param_groups"]:
        del group["share"]
    torch.save(state, run / "checkpoint.pt")
    begun = Trainer(load_experiment(run / "config.yaml"), run).network.state_dict()
    assert all(torch.equal(v, state["objective"][f"model.{k}"]) for k, v in begun.items())
    assert main(["train", "--resume", str(run)]) == 0
    assert checkpoint(run)["step"] == state["step"] + 1 and "average" in checkpoint(run)
