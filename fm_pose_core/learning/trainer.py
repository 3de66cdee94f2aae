"""The trainer: pretraining on synthetic data alone, then the joint training of f, g and h (section 3.4), with Adam."""

import contextlib
import copy
import ctypes
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from fm_pose_core.bundle import MANIFEST
from fm_pose_core.config import to_dict
from fm_pose_core.errors import expect
from fm_pose_core.files import write_atomically
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.adaptation.method import PRETRAINING, Phase
from fm_pose_core.learning.averaging import WeightAverage, mix
from fm_pose_core.learning.experiment import Data, Experiment, Validator
from fm_pose_core.learning.loader import load
from fm_pose_core.learning.logbook import Logbook
from fm_pose_core.learning.losses import Objective
from fm_pose_core.learning.networks import FeatureMapping, Fused
from fm_pose_core.learning.ranks import Ranks
from fm_pose_core.learning.stopping import StopRequest

WARM_UP = 200  # steps
LOG_EVERY = 20  # steps


def phases(experiment: Experiment, world: int = 1) -> list[Phase]:
    """The phases of one of `world` ranks, which share the images."""
    s = experiment.schedule
    share = replace(s, pretrain_images=math.ceil(s.pretrain_images / world), images=math.ceil(s.images / world))
    return [p for p in experiment.how.phases(share) if p.images > 0]


class Trainer:
    """One run: its folder holds config.yaml, checkpoint.pt, pretrained.pt (after the pretraining), log.jsonl,
    TensorBoard's files, and samples_PHASE.png: what the network sees."""

    def __init__(self, experiment: Experiment, run: Path, pretrained: Path | None = None) -> None:
        self.experiment, self.run, self.ranks = experiment, run, Ranks()
        schedule, method = experiment.schedule, experiment.how
        begun = (run / checkpoints.LATEST).is_file()
        known = begun or not schedule.beginning or experiment.network.from_bundle
        expect(known, "schedule.beginning", "0 without a bundle in network.weights", schedule.beginning)
        torch.manual_seed(schedule.seed)
        self.model = (experiment.untrained() if begun else experiment).model()
        self.beginning = copy.deepcopy(self.model) if schedule.beginning else None
        self.objective = Objective(self.model, experiment.loss, (*method.terms, *method.pretraining))
        self.objective.to(self.ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.phases = phases(experiment, self.ranks.world)
        self.phase_index, self.step, self.seconds = 0, 0, 0.0
        self.optimizer = self._new_optimizer()
        self.average: WeightAverage | None = None
        asked = schedule.precision
        self.bf16 = asked == "bf16" or (asked == "auto" and computes_bf16(self.ranks.device))
        if begun:
            self._restore()
        else:
            experiment.prepare(self.model, run)
            if pretrained is not None:
                self._take_pretraining(pretrained)
        self.average = self.average or self._new_average()

    # The training

    def train(self, data: Data, stop: StopRequest | None = None) -> bool:
        """Run all phases from where the run stands; false where it was asked to stop before their end, through `stop`
        or by a signal. Raises FloatingPointError on a non-finite loss."""
        self.ranks.expect_together(str(self.run), (self.phase_index, self.step))
        validator = data.validator() if self.ranks.first else None
        logbook = Logbook(self.run, self.images()) if self.ranks.first else None
        objective = self.ranks.wrapped(self.objective)
        with contextlib.nullcontext(stop) if stop is not None else StopRequest() as stop:
            for phase in self.phases[self.phase_index :]:
                if self.step < phase.steps:  # else the run was interrupted, or finished, just behind it
                    self._train_phase(phase, objective, data, validator, logbook, stop)
                if self.ranks.on_any(stop.made):
                    stop.made = True
                    break
                self._finish_phase(phase)
        if logbook is not None:
            logbook.close()
        self.ranks.finish(self.model)
        if stop.made and self.ranks.first:
            print(f"stopped; go on with: {self.experiment.resumed_by(self.run)}")
        return not stop.made

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.phase_index == len(self.phases) - 1 and self.step >= self.phases[-1].steps

    def _train_phase(
        self,
        phase: Phase,
        objective: nn.Module,
        data: Data,
        validator: Validator | None,
        logbook: Logbook | None,
        stop: StopRequest,
    ) -> None:
        self.begin(phase)
        watch = Watch(self, phase, validator, logbook)
        began = time.monotonic()
        with watch.bar() as bar:
            for batch in self._batches(phase, data):
                if self.ranks.on_any(stop.made):
                    stop.made = True
                    break
                if self.step == 0 and logbook is not None:
                    logbook.draw(phase.name, batch, self.experiment)
                losses = self._one_step(objective, batch)
                self.step += 1
                if self.average is not None:
                    self.average.add(self.model, self.step)
                if self.finished and self.beginning is not None:
                    mix(self.network, self.beginning, self.experiment.schedule.beginning)
                self.seconds += time.monotonic() - began
                bar.update(watch.batch)
                watch.after_step(losses, bar)
                if self.step == phase.steps:
                    break
                began = time.monotonic()
        self.save()

    def begin(self, phase: Phase) -> None:
        """Choose the terms of a phase; where the method's two extractors part, f_s begins as a copy of f."""
        method, model = self.experiment.how, self.model
        self.objective.active = tuple(t.name for t in method.terms_of(phase) if t.name in self.objective.terms)
        wanted = f"a weight above 0 for a term of {method.name}"
        expect(bool(self.objective.active), "loss", wanted, "none")
        self.objective.adapting = phase.name != PRETRAINING
        if phase.name == PRETRAINING:
            return
        if model.f_s is not None and self.step == 0:
            model.f_s.load_state_dict(model.f.state_dict())
        for name in method.frozen:
            getattr(model, name).eval().requires_grad_(False)

    def _finish_phase(self, phase: Phase) -> None:
        if phase.name == PRETRAINING:
            self.save(checkpoints.PRETRAINED)
        if self.phase_index + 1 < len(self.phases):
            self.phase_index, self.step = self.phase_index + 1, 0
            self.optimizer, self.average = self._new_optimizer(), self._new_average()
        self.save()

    def _one_step(self, objective: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.objective.progress = self.step / self.phases[self.phase_index].steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group.get("share", 1.0)  # older runs have none
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16):
            losses: dict[str, Tensor] = objective(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["L"].backward()
        largest = self.experiment.schedule.clip_gradient
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), largest)
        if not torch.isfinite(norm):
            values = {k: v.item() for k, v in losses.items()}
            raise FloatingPointError(f"step {self.step}: non-finite gradient; losses {values}")
        self.optimizer.step()
        return losses

    def _new_optimizer(self) -> torch.optim.Optimizer:
        schedule, extractors = self.experiment.schedule, (self.model.f, self.model.f_s)
        gentle = [p for f in extractors if f is not None for p in f.gentle()]
        named = {id(p) for p in gentle}
        rest = [p for p in self.objective.parameters() if id(p) not in named]
        groups = [{"params": rest, "share": 1.0}, {"params": gentle, "share": schedule.published_rate}]
        return torch.optim.Adam([g for g in groups if g["params"]], lr=schedule.learning_rate, fused=True)

    def _new_average(self) -> WeightAverage | None:
        """Begins anew with each phase; the first step gives it the weights."""
        age = self.experiment.schedule.average
        return WeightAverage(self.model, age) if age else None

    @property
    def network(self) -> FeatureMapping:
        """What the training has made so far: the mean of the weights, where it is kept."""
        return self.model if self.average is None else self.average.model

    def learning_rate(self) -> float:
        """One cosine over the whole run, and a linear warm-up over the first steps of each phase (Adam begins anew
        there)."""
        steps = [phase.steps for phase in self.phases]
        done = (sum(steps[: self.phase_index]) + self.step) / sum(steps)
        warm = min(1.0, (self.step + 1) / WARM_UP)
        return self.experiment.schedule.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * done))

    def images(self) -> int:
        """How many images all ranks have seen."""
        earlier = sum(p.steps * p.batch for p in self.phases[: self.phase_index])
        return self.ranks.world * (earlier + self.step * self.phases[self.phase_index].batch)

    def _batches(self, phase: Phase, data: Data) -> Iterator[dict[str, Tensor]]:
        """To the device, with as many renderings of real poses as the phase wants."""
        s = self.experiment.schedule
        seed = (s.seed, self.ranks.rank, self.phase_index, self.step)
        for batch in load(data.source, phase.synthetic, phase.real, seed, s.workers):
            paired = {k: v[: phase.paired] if k.endswith("_m") else v for k, v in batch.items()}
            kept = {k: v for k, v in paired.items() if len(v)}
            yield {k: v.to(self.ranks.device, non_blocking=True) for k, v in kept.items()}

    # Checkpoints

    def save(self, name: str = checkpoints.LATEST) -> None:
        """Write a checkpoint (the first rank alone)."""
        if self.ranks.first:
            state = {"objective": self.objective.state_dict(), "optimizer": self.optimizer.state_dict()}
            position = {"phase": self.phase_index, "step": self.step, "seconds": self.seconds}
            total = self.ranks.world * sum(p.steps * p.batch for p in self.phases)
            trained = {"images": self.images(), "of": total}
            mean = {} if self.average is None else {checkpoints.AVERAGE: self.average.model.state_dict()}
            kept = {} if self.beginning is None else {checkpoints.BEGINNING: self.beginning.state_dict()}
            checkpoints.write(
                self.run / name, {**state, **mean, **kept, **position, "trained": trained}, self.experiment
            )

    def _restore(self) -> None:
        path, kind = self.run / checkpoints.LATEST, type(self.experiment)
        state = checkpoints.read(path, self.ranks.device, "the checkpoint of a training run", kind)
        own = self.experiment.own
        checkpoints.expect_same(path, "a run of this configuration", own(state["config"]), own())
        with checkpoints.expected(path, "the checkpoint of a training run"):
            self.objective.load_state_dict(state["objective"])
            self.phase_index, self.step = int(state["phase"]), int(state["step"])
            self.seconds = float(state["seconds"])
            phases = len(self.phases)
            expect(0 <= self.phase_index < phases, str(path), f"a phase from 0 to {phases - 1}", self.phase_index)
            self.optimizer.load_state_dict(state["optimizer"])
            if self.beginning is not None:
                self.beginning.load_state_dict(state[checkpoints.BEGINNING])
            self.average = self._new_average()
            if self.average is not None:  # older runs have none: it begins with their weights
                self.average.model.load_state_dict(checkpoints.weights(state))

    def _take_pretraining(self, pretrained: Path) -> None:
        """Start after the pretraining, with f and h of another run that was pretrained in the same way."""
        path = pretrained / checkpoints.PRETRAINED
        begins = self.phases[0].name == PRETRAINING
        expect(begins, "method", "one that begins with a pretraining", self.experiment.method)
        state = checkpoints.read(path, self.ranks.device, "the result of a pretraining", type(self.experiment))
        ours = self.experiment.pretraining()
        theirs = {k: state["config"].get(k) for k in ours}
        for section in ("loss", "schedule"):
            theirs[section] = {k: v for k, v in (theirs[section] or {}).items() if k in ours[section]}
        checkpoints.expect_same(path, "the same pretraining as this experiment's", theirs, ours)
        wanted = [k for k in self.objective.state_dict() if k.startswith(("model.f.", "model.h.", "terms.L_p."))]
        with checkpoints.expected(path, "the result of a pretraining"):
            weights = {k: state["objective"][k] for k in wanted if k in state["objective"]}
            expect(len(weights) == len(wanted), str(path), "weights of f and h", f"{len(weights)} of {len(wanted)}")
            self.objective.load_state_dict(weights, strict=False)
        self.phase_index, self.average = 1, self._new_average()
        self.save()


class Watch:
    """What happens beside the steps of a phase: the log, the validation, the checkpoints."""

    def __init__(self, trainer: Trainer, phase: Phase, validator: Validator | None, logbook: Logbook | None) -> None:
        self.trainer, self.phase, self.validator, self.logbook = trainer, phase, validator, logbook
        schedule = trainer.experiment.schedule
        self.batch = phase.batch * trainer.ranks.world  # images of a step, on all ranks together
        self.validate_every = max(1, schedule.validate_images // self.batch)
        self.save_every = schedule.checkpoint_seconds
        self.validated = self.logged = trainer.step
        self.saved = self.logged_at = time.monotonic()

    def bar(self) -> Any:
        """The progress bar of the phase."""
        t = self.trainer
        return tqdm(
            total=self.phase.steps * self.batch,
            initial=t.step * self.batch,
            desc=f"{t.run.name} {self.phase.name}",
            unit="img",
            unit_scale=True,
            disable=not t.ranks.first,
            mininterval=1.0,
        )

    def after_step(self, losses: dict[str, Tensor], bar: Any) -> None:
        """Raises FloatingPointError, with every term, on a non-finite loss."""
        t, last = self.trainer, self.trainer.step == self.phase.steps
        if t.step % LOG_EVERY == 0 or last:
            values = {k: v.item() for k, v in losses.items()}
            if not all(math.isfinite(v) for v in values.values()):
                raise FloatingPointError(f"step {t.step} of {self.phase.name}: non-finite loss: {values}")
            rate = (t.step - self.logged) * self.batch / (time.monotonic() - self.logged_at)
            bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
            self._log({**values, "learning_rate": t.learning_rate(), "images_per_second": rate})
        if self.validator is not None and (t.step - self.validated >= self.validate_every or last):
            self.validated = t.step
            values = self.validator.run(Fused(t.network, use_mapping=self.phase.real > 0))
            self._log(values)
            shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
            print(f"\n{self.phase.name} {t.images()} images: {shown}", flush=True)
        if time.monotonic() - self.saved > self.save_every:
            t.save()
            self.saved = time.monotonic()

    def _log(self, values: dict[str, float]) -> None:
        t = self.trainer
        if self.logbook is not None:
            where = {"phase": self.phase.name, "step": t.step, "seconds": round(t.seconds, 1)}
            self.logbook.add(where, t.images(), values)
        self.logged, self.logged_at = t.step, time.monotonic()


def computes_bf16(device: torch.device) -> bool:
    """Whether the device computes with bf16 by itself. A processor that does not emulates it: a training step took 14
    times as long as with fp32 on one with AVX2 alone."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def open_run(experiment: Experiment, run: Path) -> None:
    """Make the run's folder, which keeps the configuration. Raises InputError if a run of another one is there."""
    latest = run / checkpoints.LATEST
    if latest.is_file():
        before = checkpoints.read(latest, torch.device("cpu"), "the checkpoint of a training run", type(experiment))
        theirs = experiment.own(before["config"])
        checkpoints.expect_same(run, "no run, or one of this configuration", theirs, experiment.own())
    write_atomically(run / "config.yaml", yaml.safe_dump(to_dict(experiment), sort_keys=False).encode())


def train(experiment: Experiment, run: Path, pretrained: Path | None = None, stop: StopRequest | None = None) -> bool:
    """Begin a run, or go on with the one that is in the folder `run`; false where it was stopped before its end.
    pretrained: folder of a run whose pretraining is taken over. stop: see Trainer.train."""
    keep_memory()
    expect(not (run / MANIFEST).exists(), str(run), "a folder for a run", "a bundle")
    run.mkdir(parents=True, exist_ok=True)
    with checkpoints.locked(run) if Ranks.leads() else contextlib.nullcontext():
        open_run(experiment, run)
        trainer = Trainer(experiment, run, pretrained)
        if trainer.finished and trainer.ranks.first:
            print(f"{run} is finished; the next step is: fm-pose export {run} BUNDLE_DIR")
        return trainer.finished or trainer.train(experiment.read_data(), stop)


def keep_memory() -> None:
    """Ask glibc to keep freed memory. It would hand large blocks back to the system, and each step would pay for page
    faults anew (a third of a step on a CPU)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
