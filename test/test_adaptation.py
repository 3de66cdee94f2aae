"""The methods: which network learns from what, and that each trains, stops, goes on and is exported."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tensorboard", reason="training needs tensorboard (pip install '.[train]')")

import torch.nn.functional as F
from spots import OFFSETS, SpotData, SpotExperiment, SpotSource, picture, spot_experiment
from torch import Tensor, nn

from fm_pose_core.learning.adaptation import METHODS
from fm_pose_core.learning.adaptation.adda import Adversary
from fm_pose_core.learning.adaptation.ddc import MeanDiscrepancy
from fm_pose_core.learning.adaptation.domains import domain_error
from fm_pose_core.learning.adaptation.gradient_reversal import ReversedDomain
from fm_pose_core.learning.adaptation.method import PRETRAINING
from fm_pose_core.learning.export import fused_of, to_onnx
from fm_pose_core.learning.losses import Objective, Seen
from fm_pose_core.learning.networks import Fused
from fm_pose_core.learning.trainer import Trainer, open_run

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = {"points": 1.0, "huber": 0.3}  # L_p too


def at_joint(method: str, run: Path, **loss: float) -> Trainer:
    """A trainer at the beginning of its last phase."""
    trainer = Trainer(spot_experiment(method, {**ALL, **loss}), run)
    trainer.phase_index = len(trainer.phases) - 1
    trainer.begin(trainer.phases[-1])
    return trainer


def part_of(name: str) -> str:
    """model.f_s.trunk.0.weight -> f_s; terms.L_p.layer.weight -> L_p."""
    return name.split(".")[1]


def moved(objective: Objective, loss: Tensor) -> set[str]:
    """The networks, and terms with layers, that receive a gradient from a loss."""
    objective.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward(retain_graph=True)
    return {part_of(n) for n, p in objective.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}


def gradients(objective: Objective, loss: Tensor, part: str) -> dict[str, Tensor]:
    """Of one network or term."""
    objective.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in objective.named_parameters() if part_of(n) == part and p.grad is not None}


def shaken(trainer: Trainer) -> Trainer:
    """g away from the identity, f_s away from f, and some progress, so that every gradient can be seen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for network in (trainer.model.g, trainer.model.f_s):
            for p in network.parameters() if network is not None else ():
                p.add_(0.02 * torch.randn_like(p))
    trainer.objective.progress = 0.3
    return trainer


# As the table in losses, and each method's own words, say.
POSE = {"L_hS": "f h", "L_hR": "f h", "L_u": "h", "L_p": "f L_p"}
TABLE = {
    "feature_mapping": {"L_hS": "f h", "L_hR": "f g h", "L_g": "f g", "L_u": "h", "L_p": "f g L_p"},
    "without_mapping": POSE,
    "synthetic_only": {"L_hS": "f h", "L_u": "h", "L_p": "f L_p"},
    "real_only": {"L_hR": "f h", "L_u": "h", "L_p": "f L_p"},
    "rozantsev": {"L_hS": "f_s h", "L_hR": "f h", "L_u": "h", "L_p": "f f_s L_p", "L_w": "f f_s L_w", "L_mmd": "f f_s"},
    "gradient_reversal": {**POSE, "L_d": "f L_d"},
    "ddc": {**POSE, "L_mmd": "f"},
    "adda": {"L_d": "f L_d"},
    "mapping_alone": {"L_hR": "g", "L_g": "g"},
    "head_alone": {"L_hS": "h", "L_hR": "h", "L_u": "h"},
}


def batch_of(trainer: Trainer) -> dict[str, Tensor]:
    """The first one of the trainer's phase."""
    phase = trainer.phases[trainer.phase_index]
    return next(trainer._batches(phase, trainer.experiment.read_data()))


def test_every_method_is_in_the_table() -> None:
    assert TABLE.keys() == METHODS.keys()
    assert all(method.name == name for name, method in METHODS.items())


@pytest.mark.parametrize("method", TABLE)
def test_which_network_learns_from_which_term(method: str, tmp_path: Path) -> None:
    trainer = shaken(at_joint(method, tmp_path))
    losses = trainer.objective(batch_of(trainer))
    found = {name: moved(trainer.objective, loss) for name, loss in losses.items() if name != "L"}
    assert found == {name: set(parts.split()) for name, parts in TABLE[method].items()}
    weights = {**trainer.objective.weights}
    total = sum(weights[name] * losses[name] for name in found)
    assert losses["L"].item() == pytest.approx(total.item(), rel=1e-5)
    exists = {part_of(n) for n, _ in trainer.objective.named_parameters()}
    assert ("g" in exists) == (method in ("feature_mapping", "mapping_alone"))
    assert ("f_s" in exists) == (method in ("rozantsev", "adda"))


@pytest.mark.parametrize("method", [m for m in TABLE if m != "real_only"])
def test_all_methods_pretrain_f_and_h_on_renderings(method: str, tmp_path: Path) -> None:
    trainer = Trainer(spot_experiment(method, ALL), tmp_path)
    trainer.begin(trainer.phases[0])
    assert trainer.phases[0].name == PRETRAINING
    batch = batch_of(trainer)
    assert {k for k in batch if k.startswith("x_")} == {"x_s"} and len(batch["x_s"]) == 12
    losses = trainer.objective(batch)
    found = {name: moved(trainer.objective, loss) for name, loss in losses.items() if name != "L"}
    assert found == {"L_hS": {"f", "h"}, "L_u": {"h"}, "L_p": {"f", "L_p"}}


def test_real_labels_are_not_used_by_adda_alone(tmp_path: Path) -> None:
    for method in ("adda", "ddc", "gradient_reversal", "rozantsev", "without_mapping", "feature_mapping"):
        trainer = shaken(at_joint(method, tmp_path / method, points=0.0))
        batch = batch_of(trainer)
        f = [gradients(trainer.objective, trainer.objective(b)["L"], "f") for b in (batch, with_other_labels(batch))]
        same = all(torch.equal(f[0][name], f[1][name]) for name in f[0])
        assert f[0] and same == (method == "adda"), method


def with_other_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**batch, "y_r": batch["y_r"].flip(0) + 3.0}


# Rozantsev et al.


def test_related_weights_start_related_and_pull_together(tmp_path: Path) -> None:
    trainer = at_joint("rozantsev", tmp_path)
    model, objective = trainer.model, trainer.objective
    assert model.f_s is not None
    for a, b in zip(model.f_s.parameters(), model.f.parameters(), strict=True):
        assert torch.equal(a, b) and a is not b
    batch = batch_of(trainer)
    assert objective(batch)["L_w"].item() == 0.0
    # Away from f, in one layer: the sum of Eq. is one exponential, and its gradients are opposite.
    with torch.no_grad():
        model.f_s.project.bias.add_(0.1)
    losses = objective(batch)
    assert losses["L_w"].item() == pytest.approx(float(np.expm1(16 * 0.1**2)), rel=1e-4)
    towards = gradients(objective, losses["L_w"], "f")["model.f.project.bias"]
    away = gradients(objective, losses["L_w"], "f_s")["model.f_s.project.bias"]
    assert torch.allclose(towards, -away) and (away > 0).all()  # f_s goes back, f follows
    # A scale and a shift of its own explain the difference.
    index = [n for n, _ in model.f.named_parameters()].index("project.bias")
    with torch.no_grad():
        objective.terms["L_w"].shift[index] = -0.1
    assert objective(batch)["L_w"].item() == pytest.approx(0.0, abs=1e-6)


def test_synthetic_images_see_f_s_and_real_ones_f(tmp_path: Path) -> None:
    """In the joint phase; in the pretraining, and at run time, f sees all."""
    trainer = shaken(at_joint("rozantsev", tmp_path))
    batch = batch_of(trainer)
    images = {k: batch[k] for k in ("x_s", "x_m", "x_r")}

    def through(network: nn.Module, x: Tensor) -> Tensor:
        return network(trainer.model.normalise(x))

    features, (f, f_s) = trainer.objective.extract(images), (trainer.model.f, trainer.model.f_s)
    assert f_s is not None
    for kind, network in (("x_s", f_s), ("x_m", f_s), ("x_r", f)):
        assert torch.allclose(features[kind], through(network, images[kind]), atol=1e-5), kind
    trainer.objective.adapting = False
    for kind, x in trainer.objective.extract(images).items():
        assert torch.allclose(x, through(f, images[kind]), atol=1e-5), kind
    assert Fused(trainer.model).f is f


# Ganin, Lempitsky


def test_the_classifier_descends_and_f_is_reversed(tmp_path: Path) -> None:
    trainer = shaken(at_joint("gradient_reversal", tmp_path))
    objective, batch, term = trainer.objective, batch_of(trainer), trainer.objective.terms["L_d"]
    assert isinstance(term, ReversedDomain)
    seen = objective.look(batch)
    synthetic = torch.cat([seen.features["x_s"], seen.features["x_m"]])
    plain = domain_error(term.classifier(synthetic), term.classifier(seen.features["x_r"]))  # without reversal
    want = {part: gradients(objective, plain, part) for part in ("f", "L_d")}
    for progress, strength in ((0.0, 0.0), (0.3, 2 / (1 + np.exp(-3.0)) - 1), (1.0, 2 / (1 + np.exp(-10.0)) - 1)):
        loss = term(replace(seen, progress=progress))
        assert loss is not None and loss.item() == pytest.approx(plain.item())
        classifier, f = (gradients(objective, loss, part) for part in ("L_d", "f"))
        for name, value in want["L_d"].items():
            assert torch.allclose(classifier[name], value, rtol=1e-4, atol=1e-7), name
        for name, value in want["f"].items():
            assert torch.allclose(f[name], -strength * value, rtol=1e-3, atol=1e-7), name
    assert any(v.abs().max() > 1e-4 for v in want["f"].values())


# Tzeng et al., DDC


def test_equal_means_have_no_discrepancy(tmp_path: Path) -> None:
    trainer = at_joint("ddc", tmp_path)
    term = MeanDiscrepancy(trainer.model, trainer.experiment.loss)
    a = torch.rand(6, 4, 16, generator=torch.Generator().manual_seed(0))

    def discrepancy(s: Tensor, m: Tensor, r: Tensor) -> float:
        loss = term(Seen({"x_s": s, "x_m": m, "x_r": r}, None, None, None, 0.0))
        assert loss is not None
        return float(loss)

    assert discrepancy(a[:3], a[3:], a.flip(0)) == pytest.approx(0.0, abs=1e-10)
    shift = torch.arange(16.0)
    assert discrepancy(a[:3], a[3:], a + 0.1 * shift) == pytest.approx(float((0.1 * shift).square().sum()), rel=1e-4)
    assert term(Seen({"x_s": a}, None, None, None, 0.0)) is None


# Tzeng et al., ADDA


def test_the_adversaries_have_opposite_aims(tmp_path: Path) -> None:
    """The discriminator learns to tell the domains apart; f, that its features are taken for synthetic ones."""
    trainer = shaken(at_joint("adda", tmp_path))
    objective, batch, term = trainer.objective, batch_of(trainer), trainer.objective.terms["L_d"]
    assert isinstance(term, Adversary)
    seen = objective.look(batch)
    synthetic, real = torch.cat([seen.features["x_s"], seen.features["x_m"]]), seen.features["x_r"]
    told = domain_error(term.classifier(synthetic.detach()), term.classifier(real.detach()))
    fooled = F.softplus(term.classifier(real)).mean()  # −log(1 − D)
    loss = term(seen)
    assert loss is not None and loss.item() == pytest.approx((told + fooled).item(), rel=1e-5)
    for part, want in (("L_d", gradients(objective, told, "L_d")), ("f", gradients(objective, fooled, "f"))):
        got = gradients(objective, loss, part)
        assert got.keys() == want.keys() and len(got) > 3
        for name, value in want.items():
            assert torch.allclose(got[name], value, rtol=1e-3, atol=1e-7), name


def test_f_s_and_h_stay_as_they_were_in_adda(tmp_path: Path) -> None:
    trainer = at_joint("adda", tmp_path)
    f_s, model = trainer.model.f_s, trainer.model
    assert f_s is not None and not any(p.requires_grad for n in (f_s, model.h) for p in n.parameters())
    before = {k: v.clone() for k, v in trainer.objective.state_dict().items()}
    batches = trainer._batches(trainer.phases[-1], trainer.experiment.read_data())
    for _ in range(5):
        trainer._one_step(trainer.objective, next(batches))
        trainer.step += 1
    changed = {part_of(k) for k, v in trainer.objective.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"f", "L_d"}


# Training


@dataclass(frozen=True)
class Interrupted(SpotSource):
    """The same four samples in every batch, so that it doesn't matter where a run goes on; a SIGTERM, as of a job
    scheduler, comes with the given sample of T^M."""

    stop_at: int = 0

    def open(self, synthetic: bool, pairs: bool, rng: np.random.Generator) -> Any:
        """See loader.Source."""
        return tuple(x and Repeated(x, self.stop_at) for x in super().open(synthetic, pairs, np.random.default_rng(0)))


class Repeated:
    def __init__(self, samples: Any, stop_at: int) -> None:
        self.names, self.stop_at, self.drawn = samples.names, stop_at if "x_r" in samples.names else 0, 0
        self.samples: Iterator[Any] = cycle([samples.draw() for _ in range(4)])

    def draw(self) -> tuple[np.ndarray, ...]:
        self.drawn += 1
        if self.drawn == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self.samples)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["rozantsev", "adda", "feature_mapping"])
def test_a_stopped_run_ends_as_one_that_was_not(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """f_s, once a copy of f, is not copied again where the run goes on; what is frozen stays frozen."""
    experiment = spot_experiment(method, pretrain_images=60, images=120)  # 5 and 10 steps
    whole = Trainer(experiment, tmp_path / "whole")
    whole.train(SpotData(Interrupted()))
    Trainer(experiment, tmp_path / "run").train(SpotData(Interrupted(stop_at=22)))
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().out
    resumed = Trainer(experiment, tmp_path / "run")
    assert (resumed.phase_index, resumed.step) == (1, 5)
    resumed.train(SpotData(Interrupted()))
    assert (resumed.phase_index, resumed.step) == (whole.phase_index, whole.step) == (1, 10)
    theirs = whole.objective.state_dict()
    for name, value in resumed.objective.state_dict().items():
        assert torch.allclose(value, theirs[name], rtol=1e-5, atol=1e-7), name
    if method == "rozantsev":
        assert whole.model.f_s is not None
        pairs = zip(whole.model.f.parameters(), whole.model.f_s.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs)  # they did part


def corner_error(network: Fused, real: bool) -> float:
    """Mean distance of the corners, window pixels, on pictures that no training has seen."""
    rng = np.random.default_rng(99)
    at = rng.uniform(9.0, 22.0, (64, 2))
    found = network.infer(np.stack([picture(x, rng, real) for x in at]))["corners"][:, 0]
    return float(np.linalg.norm(found - (at[:, None] + OFFSETS), axis=-1).mean())


LENGTH = {"pretrain_images": 960, "images": 1800, "learning_rate": 1e-2}  # 80 and 150 steps


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose pretraining the other methods take over."""
    run = tmp_path_factory.mktemp("runs") / "synthetic_only"
    train(spot_experiment("synthetic_only", ALL, **LENGTH), run)
    return run


def train(experiment: SpotExperiment, run: Path, pretrained: Path | None = None) -> Trainer:
    open_run(experiment, run)
    trainer = Trainer(experiment, run, pretrained)
    trainer.train(experiment.read_data())
    return trainer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the TorchScript exporter
@pytest.mark.parametrize("method", TABLE)
def test_every_method_trains_and_is_exported(method: str, pretrained: Path, tmp_path: Path) -> None:
    """230 steps. Those with labels of real images find the corners there or, where f may not learn, come nearer (of
    ADDA, without these labels, see below)."""
    experiment = spot_experiment(method, ALL, **LENGTH)
    run = pretrained if method == "synthetic_only" else tmp_path / "run"
    if method != "synthetic_only":
        train(experiment, run, None if method == "real_only" else pretrained)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    values = [line[name] for line in log for name in (*TABLE[method], "L") if name in line]
    assert np.isfinite(values).all() and {"L", *TABLE[method]} <= log[-1].keys()
    network = fused_of(run, experiment)
    if method != "adda":
        assert log[-1]["L"] < 0.6 * log[0]["L"]
        error, limit = corner_error(network, real=method != "synthetic_only"), 1.2  # pixels; 0.5 to 0.8 were measured
        if "f" in METHODS[method].frozen:  # less can be learned; 0.81 and 0.85 were measured
            renderings = fused_of(pretrained, spot_experiment("synthetic_only", ALL, **LENGTH))
            limit = 0.95 * corner_error(renderings, real=True)
        assert error < limit
    windows = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(to_onnx(network, "fp32"), providers=["CPUExecutionProvider"])
    want = network.infer(windows)
    for name, value in zip(want, session.run(list(want), {"image": windows}), strict=True):
        np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-3, err_msg=name)


def test_without_adaptation_real_images_are_worse(pretrained: Path) -> None:
    """So the others do have something to learn."""
    network = fused_of(pretrained, spot_experiment("synthetic_only", ALL, **LENGTH))
    assert corner_error(network, real=True) > 2.0 * corner_error(network, real=False)


def test_adda_begins_with_the_pretrained_networks_and_moves_f_alone(pretrained: Path, tmp_path: Path) -> None:
    trainer = train(spot_experiment("adda", ALL, **LENGTH), tmp_path / "run", pretrained)
    before = torch.load(pretrained / "pretrained.pt", weights_only=True)["objective"]
    after = trainer.objective.state_dict()
    same = {
        part: all(torch.equal(after[f"model.{part}.{k}"], before[f"model.{source}.{k}"]) for k in network.state_dict())
        for part, source in (("f_s", "f"), ("h", "h"), ("f", "f"))
        if (network := getattr(trainer.model, part))
    }
    assert same == {"f_s": True, "h": True, "f": False}
