"""For CPUs: f without normalisation layers, from random weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.learning.extractors.base import Extractor, Pyramid, Residual, extractor
from fm_pose_core.learning.extractors.published import Global


class Trunk(nn.Sequential):
    """(N, channels, S, S) -> (N, 8w, S/16, S/16), for CPUs."""

    def __init__(self, channels: int, w: int) -> None:
        relu = nn.ReLU(inplace=True)
        stem = [nn.Conv2d(channels, 2 * w, 8, stride=4, padding=2), relu, Residual(2 * w)]  # (N, 2w, S/4, S/4)
        middle = [nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), relu, Residual(4 * w), Residual(4 * w)]  # S/8
        last = [nn.Conv2d(4 * w, 8 * w, 3, stride=2, padding=1), relu, Residual(8 * w), Residual(8 * w)]  # S/16
        super().__init__(*stem, *middle, *last)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """At S/8 and S/16: (N, 4w, S/8, S/8), (N, 8w, S/16, S/16)."""
        for layer in list(self)[:7]:
            x = layer(x)
        middle = x
        for layer in list(self)[7:]:
            x = layer(x)
        return middle, x


@extractor("compact")
class Compact(Extractor):
    """For CPUs: one feature vector for each cell of 16×16 pixels."""

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__(channels, size, width, features, depth)
        self.cells, self.feature_size = (size // self.cell) ** 2, features
        self.trunk = Trunk(channels, width)
        self.project = nn.Conv2d(8 * width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.trunk(x))  # (N, D, S/16, S/16)
        return F.relu(x).flatten(2).transpose(1, 2)  # (N, L, D)


@extractor("fine")
class Fine(Pyramid):
    """As `compact`, with cells of 8×8 pixels."""

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__(channels, size, width, features, depth, coarse=8 * width)
        self.trunk = Trunk(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(*self.trunk.levels(x))


@extractor("compact_global")
class CompactGlobal(Global):
    """For CPUs, with the paper's global feature."""

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__(channels, size, width, features, depth)
        self.trunk = Trunk(channels, width)
        self.project = nn.Conv2d(8 * width, 64, 1)
        self._connect(64 * (size // 16) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        return self._see_all(F.relu(self.project(self.trunk(x))))
