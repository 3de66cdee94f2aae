"""What every extractor is, their registry, and the block that they share."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.errors import InputError, expect


class Extractor(nn.Module):
    """f: images (N, channels, size, size) -> features (N, cells, feature_size), see `FeatureMapping.normalise`.

    Made from `channels` and `size` of the window, and the configuration's `width`, `features` and `depth`. cell: side
    of a cell, pixels; those with a single cell have no use for it. published: whether it must begin with weights from
    elsewhere.
    """

    cell: ClassVar[int] = 16
    published: ClassVar[bool] = False
    cells: int
    feature_size: int

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__()

    def gentle(self) -> list[nn.Parameter]:
        """What learns at `schedule.published_rate`."""
        return []

    def initialise(self) -> None:
        """Random weights to begin with."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.weight)

    def load_weights(self, source: str) -> None:
        """Weights from elsewhere to begin with. source: a file, or a name that the extractor knows. Raises InputError
        where there are none for this extractor."""
        raise InputError(f"weights to begin with: expected a bundle's folder for {type(self).__name__}, got {source!r}")


EXTRACTORS: dict[str, type[Extractor]] = {}
E = TypeVar("E", bound=type[Extractor])


def extractor(name: str) -> Callable[[E], E]:
    """Enter a class into the registry, as `network.extractor` in a configuration names it."""

    def enter(cls: E) -> E:
        EXTRACTORS[name] = cls
        return cls

    return enter


class Residual(nn.Module):
    """relu(x + conv(relu(conv(x)))), the second convolution zero at first, in place of normalisation (Zhang et al.,
    Fixup, 2019): no statistics that differ between real and synthetic images, and half the time on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)


class Pyramid(Extractor):
    """Ends with a feature for each cell of 8×8 pixels: what the last stage sees goes back to the stage before (Lin et
    al., Feature Pyramid Networks, 2017). coarse: channels of the last stage."""

    cell = 8

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int, coarse: int) -> None:
        super().__init__(channels, size, width, features, depth)
        self.cells, self.feature_size, self.side = (size // self.cell) ** 2, features, 4 * width
        self.lateral = nn.Conv2d(coarse, self.side, 1)
        self.smooth = Residual(self.side)
        self.deeper = nn.Sequential(*(Residual(self.side) for _ in range(depth - 1)))
        self.project = nn.Conv2d(self.side, features, 1)

    def joined(self, fine: Tensor, coarse: Tensor, whole: Tensor | None = None) -> Tensor:
        """(N, 4w, S/8, S/8), (N, coarse, S/16, S/16), perhaps (N, 4w, S/32, S/32) -> (N, L, D)."""
        seen = self.lateral(coarse)
        if whole is not None:
            seen = seen + F.interpolate(whole, scale_factor=2.0, mode="nearest")
        fine = F.relu(fine + F.interpolate(seen, scale_factor=2.0, mode="nearest"))
        return F.relu(self.project(self.deeper(self.smooth(fine)))).flatten(2).transpose(1, 2)


def read_state_dict(source: str, wanted: str) -> dict[str, Tensor]:
    """A state dict file of PyTorch. No pickled code is run. wanted: what it should be, for the InputError that is
    raised if it is something else."""
    expect(Path(source).is_file(), source, wanted, "nothing there")
    try:
        state: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{source}: expected {wanted}, got {type(error).__name__}: {error}") from None
    return state
