"""Several processes that train one network together (torchrun sets RANK, LOCAL_RANK and WORLD_SIZE)."""

import hashlib
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fm_pose_core.errors import expect


class Ranks:
    """This process among `world`. first: whether it writes the files. device: its GPU, or the CPU."""

    def __init__(self) -> None:
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        self.first = self.rank == 0
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")

    @staticmethod
    def leads() -> bool:
        """Whether this process will be the first, before it has met the others."""
        return int(os.environ.get("RANK", 0)) == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the ranks."""
        if self.world == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def on_any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        return bool(self._largest(torch.tensor([int(flag)], device=self.device)).item()) if self.world > 1 else flag

    def expect_together(self, run: str, position: tuple[int, int]) -> None:
        """Raise InputError unless all ranks stand at the same (phase, step): a resumed run needs its folder on every
        machine."""
        if self.world > 1:
            here = torch.tensor([*position, *(-x for x in position)], device=self.device)
            most = self._largest(here.clone())
            wanted = "the same checkpoint on every machine (a shared folder)"
            got = f"phase {position[0]}, step {position[1]} on rank {self.rank}"
            expect(bool((most[:2] == -most[2:]).all()), run, wanted, got)

    def finish(self, model: nn.Module) -> None:
        """Tell the weights' checksum, which must be the same on every rank, and leave."""
        if self.world > 1:
            print(f"rank {self.rank}: weights {weights_digest(model)}", flush=True)
            dist.destroy_process_group()

    def _largest(self, values: Tensor) -> Tensor:
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values


def weights_digest(model: nn.Module) -> str:
    """A short checksum of all weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
