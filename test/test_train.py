"""The trainer: all in one line, two ranks, shared pretrainings, a loss that is not finite, methods on equal budgets."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")

from box_training import checkpoint, environment, write_experiment
from rendered_bop import write_rendered_bop
from spots import SpotExperiment, spot_batches, spot_experiment

from fm_pose_core.cli import main
from fm_pose_core.config import read_yaml
from fm_pose_core.errors import InputError
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.adaptation import METHODS
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.learning.loader import Source, load
from fm_pose_core.learning.networks import NetworkConfig
from fm_pose_core.learning.trainer import Trainer, open_run, phases
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.tasks import experiment_from, load_bundle, load_experiment

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rendered_bop(tmp_path_factory.mktemp("bop") / "box")


def test_train_export_estimate(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything in one line: the verbs train and export, and the bundle in the estimator."""
    config = write_experiment(tmp_path / "box.yaml", dataset)
    assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"L_hS", "L_hR", "L_g", "L"} <= set(log[-2]) and "validation/proj_5px" in log[-1]
    assert load_experiment(tmp_path / "run" / "config.yaml") == load_experiment(config)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert all((tmp_path / "run" / f"samples_{phase}.png").is_file() for phase in ("pretrain", "joint"))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle")]) == 0
    estimator = PoseEstimator.load(tmp_path / "bundle")
    assert estimator.bundle.name == "obj_000001" and estimator.bundle.object().mesh_path is not None
    data = load_experiment(config).read_data()
    model = Trainer(load_experiment(config), tmp_path / "run").model
    from fm_pose_core.learning.networks import Fused

    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        want = Fused(model)(torch.from_numpy(images))[0].numpy()
    assert np.abs(estimator.backend.infer(images)["corners"] - want).max() < 0.5  # pixels, bf16 where the CPU has it
    assert np.allclose(estimator.bundle.object().box_corners, data.source.objects[0].corners)


def with_loss(**loss: object) -> Experiment:
    return experiment_from({"objects": [{"id": 1}], "loss": loss})


def test_a_pretraining_is_of_one_network_loss_and_data() -> None:
    """What L_hS and L_p read is part of it; what the terms of the joint phase read is not."""
    plain = with_loss().pretraining()
    for loss in ({"huber": 0.15}, {"points": 1.0}):
        assert with_loss(**loss).pretraining() != plain, loss
    joint_alone = ({"gamma": 0.5}, {"beta": 2.0}, {"feature_variance": 4.0}, {"target_gradient": False}, {"mmd": 1.0})
    for loss in joint_alone:
        assert with_loss(**loss).pretraining() == plain, loss
    for section in ({"method": "without_mapping"}, {"real": {"plain": 0.5}}, {"schedule": {"validate_images": 5}}):
        assert experiment_from({"objects": [{"id": 1}], **section}).pretraining() == plain
    for section in ({"objects": [{"id": 2}]}, {"network": {"width": 8}}, {"synthetic": {"displacement": 5.0}}):
        assert experiment_from({"objects": [{"id": 1}], **section}).pretraining() != plain


def test_another_pretraining_is_not_taken_over(tmp_path: Path) -> None:
    first = spot_experiment("feature_mapping", {"points": 1.0, "huber": 0.3}, pretrain_images=12, images=12)
    open_run(first, tmp_path / "first")
    Trainer(first, tmp_path / "first").train(first.read_data())
    for loss, message in (
        ({"points": 1.0}, r"the same pretraining .*, got another loss\.huber \(0\.3, here 0\.0\)$"),
        ({"huber": 0.3}, r"got another loss\.points \(1\.0, here 0\.0\)$"),
    ):
        other = spot_experiment("feature_mapping", loss, pretrain_images=12, images=12)
        with pytest.raises(InputError, match=message):
            Trainer(other, tmp_path / "other", tmp_path / "first")
    with pytest.raises(InputError, match="method: expected one that begins with a pretraining, got real_only"):
        Trainer(spot_experiment("real_only"), tmp_path / "other", tmp_path / "first")
    with pytest.raises(InputError, match="expected the result of a pretraining, got nothing there"):
        Trainer(first, tmp_path / "other", tmp_path / "none")

    loss = {"points": 1.0, "huber": 0.3, "gamma": 1.0}
    peer = spot_experiment("rozantsev", loss, pretrain_images=12, images=12)
    open_run(peer, tmp_path / "peer")
    trainer = Trainer(peer, tmp_path / "peer", tmp_path / "first")
    assert (trainer.phase_index, trainer.step) == (1, 0)
    theirs = torch.load(tmp_path / "first" / "pretrained.pt", weights_only=True)["objective"]
    ours = trainer.objective.state_dict()
    taken = [k for k in theirs if k.startswith(("model.f.", "model.h.", "terms.L_p."))]
    assert len(taken) > 20 and all(torch.equal(ours[k], theirs[k]) for k in taken)


def test_a_term_without_weight_is_left_out(tmp_path: Path) -> None:
    """Nothing is computed for it, and it has no layers."""
    for method, knob, name in (
        ("feature_mapping", "gamma", "L_g"),
        ("feature_mapping", "beta", "L_hR"),
        ("feature_mapping", "points", "L_p"),
        ("rozantsev", "related", "L_w"),
        ("gradient_reversal", "domain", "L_d"),
        ("ddc", "mmd", "L_mmd"),
    ):
        for weight in (0.0, 1.0):
            experiment = spot_experiment(method, {knob: weight})
            trainer = Trainer(experiment, tmp_path / method)
            trainer.phase_index = 1
            trainer.begin(trainer.phases[1])
            losses = trainer.objective(next(trainer._batches(trainer.phases[1], experiment.read_data())))
            layers = [k for k in trainer.objective.state_dict() if k.startswith(f"terms.{name}.")]
            assert (name in losses) == (name in trainer.objective.terms) == (weight > 0)
            assert bool(layers) == (weight > 0 and name in ("L_p", "L_w", "L_d"))
    nothing = Trainer(spot_experiment("adda", {"domain": 0.0}), tmp_path / "adda")
    with pytest.raises(InputError, match="loss: expected a weight above 0 for a term of adda, got none"):
        nothing.begin(nothing.phases[1])


def test_two_ranks_train_one_model(dataset: Path, tmp_path: Path) -> None:
    """torchrun with two CPU processes: gradients are averaged, so both end with the same weights."""
    config = write_experiment(tmp_path / "box.yaml", dataset, images=48, pretrain_images=48)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",  # at a free port
        "-m",
        "fm_pose_core.cli",
    ]
    done = subprocess.run(
        [*torchrun, "train", str(config), "--output", str(tmp_path / "two")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "two joint: 100%" in done.stderr and "48.0/48.0" in done.stderr  # of both together
    assert main(["train", str(config), "--output", str(tmp_path / "one")]) == 0
    two, one = checkpoint(tmp_path / "two"), checkpoint(tmp_path / "one")
    assert (two["phase"], two["step"]) == (1, 2) and (one["phase"], one["step"]) == (1, 4)  # the ranks share the images
    assert [
        json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[-1])["images"] for run in ("one", "two")
    ] == [96, 96]
    digests = [line.split()[-1] for line in done.stdout.splitlines() if "weights" in line]
    assert len(digests) == 2 and digests[0] == digests[1]


def test_each_rank_phase_and_step_draws_data_of_its_own(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(write_experiment(tmp_path / "box.yaml", dataset))
    data = experiment.read_data()
    seeds: list[tuple[int, ...]] = []

    def note(
        source: Source, synthetic: int, pairs: int, seed: tuple[int, ...], workers: int
    ) -> Iterator[dict[str, Any]]:
        seeds.append(seed)
        return iter(())

    trainer = Trainer(experiment, tmp_path)
    monkeypatch.setattr("fm_pose_core.learning.trainer.load", note)
    for rank, phase, step in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 20)]:
        trainer.ranks.rank, trainer.phase_index, trainer.step = rank, phase, step
        assert list(trainer._batches(trainer.phases[phase], data)) == []
    streams = [load(data.source, 2, 2, seed, workers=0) for seed in [*seeds, seeds[0]]]
    *different, again = [next(stream) for stream in streams]
    for name, value in different[0].items():
        np.testing.assert_array_equal(again[name], value, name)
    for name in ("x_s", "y_s", "x_r", "x_m", "y_r"):
        assert len({batch[name].numpy().tobytes() for batch in different}) == len(different) == 4, name


def test_a_loss_that_is_not_finite_stops_with_every_term(dataset: Path, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "box.yaml", dataset)
    experiment = load_experiment(config)
    (tmp_path / "run").mkdir()
    trainer = Trainer(experiment, tmp_path / "run")
    with torch.no_grad():
        trainer.model.h.fc.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="L_hS"):
        trainer.train(experiment.read_data())


class StopAfter:
    """So many questions whether to stop."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    @property
    def made(self) -> bool:
        self.left -= 1
        return self.left < 0

    @made.setter
    def made(self, value: bool) -> None:
        self.left = 0


@pytest.mark.parametrize("average", [0.0, 0.1])
def test_what_a_training_began_with_has_its_share_in_what_it_ends_with(tmp_path: Path, average: float) -> None:
    """Also where it was stopped on its way, and the bundle is gone since; without a bundle to begin with, there is
    nothing to mix in."""
    folder = tmp_path / "bundle"
    shutil.copytree(ROOT / "models" / "tugboat", folder)
    own = load_bundle(folder).manifest.network.architecture
    network = NetworkConfig(own["extractor"], own["width"], own["features"], weights=str(folder))

    def experiment(share: float) -> Experiment:
        made = spot_experiment("feature_mapping", learning_rate=0.2, batch_synthetic=1, batch_pairs=1, beginning=share)
        return replace(
            made, network=network, schedule=replace(made.schedule, pretrain_images=0, images=15, average=average)
        )

    def trained(share: float) -> dict[str, torch.Tensor]:
        run, what = tmp_path / str(share), experiment(share)
        run.mkdir()
        assert not Trainer(what, run).train(what.read_data(), StopAfter(3))
        folder.rename(tmp_path / "elsewhere")
        assert Trainer(what, run).train(what.read_data())
        (tmp_path / "elsewhere").rename(folder)
        return checkpoints.weights(checkpoints.read(run / checkpoints.LATEST, torch.device("cpu"), "", SpotExperiment))

    torch.manual_seed(experiment(0.0).schedule.seed)
    began = dict(experiment(0.0).model().named_parameters())
    learned, mixed = trained(0.0), trained(0.25)
    assert max(float((learned[k] - v.detach()).abs().max()) for k, v in began.items()) > 1e-4
    for k, v in began.items():
        torch.testing.assert_close(mixed[k], 0.75 * learned[k] + 0.25 * v.detach(), atol=1e-6, rtol=1e-4)
    with pytest.raises(
        InputError, match=r"schedule.beginning: expected 0 without a bundle in network.weights, got 0.5"
    ):
        Trainer(spot_experiment("feature_mapping", beginning=0.5), tmp_path / "random")


def test_methods_get_equal_budgets() -> None:
    budgets = {}
    for method in METHODS:
        stages = phases(experiment_from({"method": method, "objects": [{"id": 1}]}))
        assert len({p.batch for p in stages}) == 1
        budgets[method] = sum(p.steps * p.batch for p in stages)
    assert max(budgets.values()) - min(budgets.values()) <= 2 * 96


def test_a_batch_holds_what_its_phase_says(tmp_path: Path) -> None:
    """Renderings of real poses for the first pairs alone, and none for "real only"."""

    def kept(method: str) -> tuple[int, int, int]:
        experiment = spot_experiment(method, batch_synthetic=1, batch_pairs=2, batch_real=3)
        trainer = Trainer(experiment, tmp_path / method)
        phase = trainer.phases[-1]
        assert phase.batch == 8
        batch = next(trainer._batches(phase, experiment.read_data()))
        assert len(batch["y_r"]) == len(batch["p_r"]) == len(batch["x_r"])
        assert len(batch.get("p_m", ())) == len(batch.get("x_m", ()))
        return len(batch.get("x_s", ())), len(batch["x_r"]), len(batch.get("x_m", ()))

    assert kept("feature_mapping") == kept("without_mapping") == (1, 5, 2)
    assert kept("real_only") == (0, 8, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metod": "real_only"}, "metod: expected one of the keys"),
        ({"schedule": {"images": "many"}}, "schedule.images: expected int"),
        ({"loss": {"gamma": -1}}, "loss.gamma: expected at least 0"),
        ({"method": "magic"}, "method: expected one of synthetic_only"),
        ({"synthetic": {"viewpoints": {"distance": [1.0]}}}, "synthetic.viewpoints.distance: expected 2 values"),
        ({"objects": [{"id": 1}, {"id": "two"}]}, "objects[1].id: expected int"),
        ({"objects": 1}, "objects: expected a list"),
        ({"hand": {}}, "configuration: expected one of the sections objects, hand, got objects, hand"),
    ],
)
def test_a_wrong_configuration_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        experiment_from({"objects": [{"id": 1}], **values})
    assert message in str(error.value)


def test_every_configuration_in_the_repository_is_valid() -> None:
    """Those that others build upon are a part of them."""
    files = {path: read_yaml(path) for path in sorted((ROOT / "config" / "train").glob("*.yaml"))}
    bases = {name for values in files.values() for name in np.atleast_1d(values.get("base", []))}
    whole = [path for path in files if path.name not in bases]
    assert len(whole) >= 6
    for path in whole:
        load_experiment(path)


@pytest.mark.parametrize(
    ("asked", "able", "used"),
    [("auto", True, True), ("auto", False, False), ("bf16", False, True), ("fp32", True, False)],
)
def test_bf16_is_chosen_where_the_processor_computes_with_it(
    asked: str, able: bool, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated, it is many times slower than fp32."""
    for capability in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, capability, lambda: able)
    trainer = Trainer(spot_experiment("feature_mapping", precision=asked), tmp_path)
    found = []
    trainer.objective.register_forward_pre_hook(lambda *_: found.append(torch.is_autocast_enabled("cpu")))
    trainer.begin(trainer.phases[0])
    trainer._one_step(trainer.objective, next(spot_batches()))
    assert found == [used]
