"""The trainer: pretraining on synthetic data alone, then the joint training of f, g and h (section 3.4), with Adam."""

import argparse
import contextlib
import ctypes
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from fm_pose_core.config import to_dict
from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically
from fm_pose_core.learning.experiment import Data, Experiment, Validator, expand
from fm_pose_core.learning.loader import load
from fm_pose_core.learning.losses import Objective
from fm_pose_core.learning.networks import FeatureMapping
from fm_pose_core.learning.sheet import draw_batch
from fm_pose_core.tasks import load_experiment


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a fixed mixture of images in each batch: `synthetic` of T^S, `real` of T^R, and for
    the first `paired` of these their renderings (T^M)."""

    name: str
    images: int
    synthetic: int
    real: int
    paired: int

    @property
    def batch(self) -> int:
        return self.synthetic + self.real + self.paired

    @property
    def steps(self) -> int:
        return math.ceil(self.images / self.batch)


def phases(experiment: Experiment, world: int = 1) -> list[Phase]:
    """The phases of one of `world` ranks, which share the images. Every method gets the same number of images and
    steps; only the mixture differs."""
    s = experiment.schedule
    total = s.batch_synthetic + 2 * s.batch_pairs + s.batch_real
    pretrain_images, images = (math.ceil(n / world) for n in (s.pretrain_images, s.images))
    pretrain = Phase("pretrain", pretrain_images, total, 0, 0)
    if experiment.method == "synthetic_only":
        result = [pretrain, Phase("joint", images, total, 0, 0)]
    elif experiment.method == "real_only":
        result = [Phase("joint", pretrain_images + images, 0, total, 0)]
    else:
        result = [pretrain, Phase("joint", images, s.batch_synthetic, s.batch_pairs + s.batch_real, s.batch_pairs)]
    return [p for p in result if p.images > 0]


class Trainer:
    """One run: its folder holds config.yaml, checkpoint.pt, pretrained.pt (after the pretraining), log.jsonl,
    TensorBoard's files, and samples_PHASE.png: what the network sees."""

    def __init__(self, experiment: Experiment, run: Path, pretrained: Path | None = None) -> None:
        self.experiment, self.run = experiment, run
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        torch.manual_seed(experiment.schedule.seed)
        mapping = experiment.method == "feature_mapping"
        self.model = FeatureMapping(replace(experiment.network, mapping=mapping), experiment.contract())
        if experiment.network.extractor == "vgg16" and experiment.network.weights:
            from fm_pose_core.learning.vgg_weights import load_vgg16

            load_vgg16(self.model.f, experiment.network.weights)
        self.objective = Objective(self.model, experiment.loss, experiment.method)
        self.objective.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.phases = phases(experiment, self.world)
        self.phase, self.step = 0, 0
        self.seconds = 0.0
        self.optimizer = self._new_optimizer()
        self._stop = False
        if (self.run / "checkpoint.pt").is_file():
            self._restore()
        elif pretrained is not None:
            self._take_pretraining(pretrained)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.objective.parameters(), lr=self.experiment.schedule.learning_rate, fused=True)

    def learning_rate(self) -> float:
        """One cosine over the whole run, and a linear warm-up over the first 200 steps of each phase (Adam begins anew
        there)."""
        steps = [phase.steps for phase in self.phases]
        done = (sum(steps[: self.phase]) + self.step) / sum(steps)
        return (
            self.experiment.schedule.learning_rate
            * min(1.0, (self.step + 1) / 200)
            * 0.5
            * (1.0 + math.cos(math.pi * done))
        )

    def train(self, data: Data) -> None:
        """Run all phases from where the run stands. Raises FloatingPointError on a non-finite loss."""
        self._check_ranks()
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._train(data)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _train(self, data: Data) -> None:
        from torch.utils.tensorboard import SummaryWriter

        validation = data.validator(self.device) if self.rank == 0 else None
        writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.images()) if self.rank == 0 else None
        objective: nn.Module = self.objective
        if self.world > 1:
            objective = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
        for phase in self.phases[self.phase :]:
            if self.step < phase.steps:  # else the run was interrupted, or finished, just behind it
                self._train_phase(phase, objective, data, validation, writer)
            if self._stop:
                break
            if phase.name == "pretrain":
                self.save("pretrained.pt")
            if self.phase + 1 < len(self.phases):
                self.phase, self.step = self.phase + 1, 0
                self.optimizer = self._new_optimizer()
            self.save()
        if writer is not None:
            writer.close()
        if self.world > 1:  # every rank must hold the same weights
            print(f"rank {self.rank}: weights {weights_digest(self.model)}", flush=True)
            dist.destroy_process_group()
        if self._stop and self.rank == 0:
            print(f"stopped; go on with: fm-pose train --resume {self.run}")

    def _train_phase(
        self, phase: Phase, objective: nn.Module, data: Data, validation: Validator | None, writer: Any
    ) -> None:
        s = self.experiment.schedule
        seed = (s.seed, self.rank, self.phase, self.step)
        stream = batches_of(phase, load(data.source, phase.synthetic, phase.real, seed, s.workers), self.device)
        saved, validated = time.monotonic(), self.step
        logged, logged_at = self.step, time.monotonic()
        every = max(1, s.validate_images // (phase.batch * self.world))
        label = f"{self.run.name} {phase.name}"
        start, total = self.step * phase.batch, phase.steps * phase.batch
        with tqdm(
            total=total, initial=start, desc=label, unit="img", unit_scale=True, disable=self.rank != 0, mininterval=1.0
        ) as progress:
            while self.step < phase.steps and not self._agree_to_stop():
                began = time.monotonic()
                batch = next(stream)
                if self.step == 0 and self.rank == 0:
                    self._draw(batch, phase)
                losses = self._one_step(objective, batch)
                self.step += 1
                self.seconds += time.monotonic() - began
                progress.update(phase.batch)
                if self.step % 20 == 0 or self.step == phase.steps:
                    values = {k: v.item() for k, v in losses.items()}
                    if not all(math.isfinite(v) for v in values.values()):
                        raise FloatingPointError(f"step {self.step} of {phase.name}: non-finite loss: {values}")
                    rate = (self.step - logged) * phase.batch * self.world / (time.monotonic() - logged_at)
                    logged, logged_at = self.step, time.monotonic()
                    progress.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
                    self._log(
                        writer, phase, {**values, "learning_rate": self.learning_rate(), "images_per_second": rate}
                    )
                if validation is not None and (self.step - validated >= every or self.step == phase.steps):
                    validated = self.step
                    self._log(writer, phase, validation.run(self.model, use_mapping=phase.real > 0), echo=True)
                    logged, logged_at = self.step, time.monotonic()
                if time.monotonic() - saved > s.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _draw(self, batch: dict[str, Tensor], phase: Phase) -> None:
        picture = draw_batch({k: v.cpu().numpy() for k, v in batch.items()}, self.experiment.contract())
        write_atomically(self.run / f"samples_{phase.name}.png", cv2.imencode(".png", picture[..., ::-1])[1].tobytes())

    def _one_step(self, objective: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        bf16 = self.experiment.schedule.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            losses: dict[str, Tensor] = objective(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["L"].backward()
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.experiment.schedule.clip_gradient)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {self.step}: non-finite gradient; losses { ({k: v.item() for k, v in losses.items()}) }"
            )
        self.optimizer.step()
        return losses

    def images(self) -> int:
        """How many images all ranks have seen."""
        earlier = sum(p.steps * p.batch for p in self.phases[: self.phase])
        return self.world * (earlier + self.step * self.phases[self.phase].batch)

    def _log(self, writer: Any, phase: Phase, values: dict[str, float], echo: bool = False) -> None:
        if self.rank != 0:
            return
        images = self.images()
        for name, value in values.items():
            writer.add_scalar(name, value, images)
        record = {"phase": phase.name, "step": self.step, "images": images, "seconds": round(self.seconds, 1), **values}
        with (self.run / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if echo:
            print(
                f"\n{phase.name} {images} images: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop:  # asked twice: at once
            raise KeyboardInterrupt
        self._stop = True

    def _check_ranks(self) -> None:
        """All ranks must stand at the same step: a resumed run needs its folder on every machine."""
        if self.world > 1:
            here = torch.tensor([self.phase, self.step, -self.phase, -self.step], device=self.device)
            most = here.clone()
            dist.all_reduce(most, dist.ReduceOp.MAX)
            same = bool((most[:2] == -most[2:]).all())
            expect(
                same,
                str(self.run),
                "the same checkpoint on every machine (a shared folder)",
                f"phase {self.phase}, step {self.step} on rank {self.rank}",
            )

    def _agree_to_stop(self) -> bool:
        if self.world > 1:
            flag = torch.tensor(int(self._stop), device=self.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            self._stop = bool(flag.item())
        return self._stop

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write a checkpoint atomically (rank 0 alone)."""
        if self.rank != 0:
            return
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "phase": self.phase,
            "step": self.step,
            "seconds": self.seconds,
            "config": json.dumps(to_dict(self.experiment)),
        }
        torch.save(state, self.run / f".{name}")
        os.replace(self.run / f".{name}", self.run / name)

    def _restore(self) -> None:
        state = torch.load(self.run / "checkpoint.pt", map_location=self.device, weights_only=True)
        expect(
            json.loads(state["config"]) == to_dict(self.experiment),
            f"{self.run}",
            "a run of this configuration",
            "a run of another one",
        )
        self.objective.load_state_dict(state["objective"])
        self.phase, self.step, self.seconds = state["phase"], state["step"], state["seconds"]
        self.optimizer.load_state_dict(state["optimizer"])
        log = self.run / "log.jsonl"
        if self.rank == 0 and log.is_file():  # what came after the checkpoint happens anew
            lines = [
                line
                for line in log.read_text().splitlines(keepends=True)
                if json.loads(line)["images"] <= self.images()
            ]
            write_atomically(log, "".join(lines).encode())

    def _take_pretraining(self, pretrained: Path) -> None:
        """Start after the pretraining, with f and h of another run that was pretrained in the same way."""
        path = pretrained / "pretrained.pt"
        expect(path.is_file(), str(path), "the result of a pretraining", "nothing there")
        expect(
            self.phases[0].name == "pretrain", "method", "one that begins with a pretraining", self.experiment.method
        )
        state = torch.load(path, map_location=self.device, weights_only=True)
        theirs = json.loads(state["config"])
        for key, mine in self.experiment.pretraining().items():
            expect(theirs.get(key) == mine, f"{pretrained}: {key}", "the same as in this experiment", "something else")
        missing = self.objective.load_state_dict(state["objective"], strict=False).missing_keys
        expect(all(k.startswith("model.g.") for k in missing), str(path), "weights of f and h", f"no {missing}")
        self.phase = 1
        self.save()


def weights_digest(model: nn.Module) -> str:
    """A short checksum of all weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def batches_of(phase: Phase, stream: Iterator[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """To the device, with as many renderings of real poses as the phase wants."""
    for batch in stream:
        for name in ("x_m", "p_m"):
            if name in batch and phase.paired < phase.real:
                batch[name] = batch[name][: phase.paired]
                if not phase.paired:
                    del batch[name]
        yield {k: v.to(device, non_blocking=True) for k, v in batch.items()}


def open_run(config: Path, run: Path | None, changes: list[str]) -> tuple[Experiment, Path]:
    """Read the experiment, apply `changes` (key.key=value), and make the run's folder (default runs/NAME), which keeps
    the configuration that results."""
    experiment = load_experiment(config, changes)
    run = run or Path("runs") / config.stem
    if (run / "checkpoint.pt").is_file():
        before = load_experiment(run / "config.yaml")
        expect(before == experiment, str(run), "no run, or one of this configuration", "a run of another one")
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / "config.yaml", yaml.safe_dump(to_dict(experiment), sort_keys=False).encode())
    return experiment, run


def keep_memory() -> None:
    """Ask glibc to keep freed memory. It would hand large blocks back to the system, and each step would pay for page
    faults anew (a third of a step on a CPU)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def main(arguments: argparse.Namespace) -> int:
    """`fm-pose train`."""
    keep_memory()
    if arguments.resume is not None:
        run = Path(arguments.resume)
        experiment = load_experiment(run / "config.yaml")
    else:
        if arguments.config is None:
            raise InputError("train: expected a configuration, or --resume with the folder of a run; got neither")
        experiment, run = open_run(
            Path(arguments.config), Path(arguments.output) if arguments.output else None, arguments.set
        )
    trainer = Trainer(experiment, run, expand(arguments.pretrained) if arguments.pretrained else None)
    trainer.train(experiment.read_data())
    return 0
