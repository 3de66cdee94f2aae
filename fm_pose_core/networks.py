"""The paper's three networks (section 3.4): feature extractor f, mapping g, pose predictor h. The whole model in one file.

Features are (N, L, D): L cells of D numbers. The published network has one cell of 1024 (two fully-connected layers see
the whole image). `compact` keeps one feature vector per image cell, and applies the same g and h to each: a fully-connected
layer shared by all cells is a 1×1 convolution. Every cell then votes for the 8 corners, with a confidence; with L = 1 this is
the paper's network.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.config import from_dict, knob

CORNERS = 8


@dataclass(frozen=True)
class NetworkConfig:
    extractor: str = knob(
        "compact",
        "f: compact (one feature per cell), compact_global (the paper's global feature) or vgg16 (as published).",
        choices=("compact", "compact_global", "vgg16"),
    )
    width: int = knob(24, "Channels w of the compact extractors, whose stages have 2w, 4w and 8w.", 8, 256)
    features: int = knob(256, "Feature size D of compact; compact_global and vgg16 have 1024 as published.", 16, 4096)
    mapping: bool = knob(True, "Whether g exists; without it h reads f's features of real images directly.")
    weights: str = knob(
        "", "Initial VGG-16 weights: a torchvision state dict file, 'torchvision' for the published URL, or empty for none."
    )


class Residual(nn.Module):
    """relu(x + conv(relu(conv(x)))), the second convolution zero at first, in place of normalisation (Zhang et al., Fixup, 2019):
    no statistics that differ between real and synthetic images, and half the time on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)


def _trunk(w: int) -> nn.Sequential:
    """(N, 3, S, S) -> (N, 8w, S/16, S/16)."""
    return nn.Sequential(
        nn.Conv2d(3, 2 * w, 8, stride=4, padding=2), nn.ReLU(inplace=True), Residual(2 * w),  # (N, 2w, 32, 32)
        nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), nn.ReLU(inplace=True), Residual(4 * w), Residual(4 * w),  # (N, 4w, 16, 16)
        nn.Conv2d(4 * w, 8 * w, 3, stride=2, padding=1), nn.ReLU(inplace=True), Residual(8 * w), Residual(8 * w),  # (N, 8w, 8, 8)
    )  # fmt: skip


class Compact(nn.Module):
    """f for CPUs: one feature vector per cell of 16×16 pixels."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.trunk = _trunk(width)
        self.project = nn.Conv2d(8 * width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.trunk(x))  # (N, D, 8, 8)
        return F.relu(x).flatten(2).transpose(1, 2)  # (N, 64, D)


class CompactGlobal(nn.Module):
    """f for CPUs with the paper's head: two fully-connected layers of 1024 that see the whole image."""

    def __init__(self, width: int, features: int, size: int) -> None:
        super().__init__()
        self.trunk = _trunk(width)
        self.project = nn.Conv2d(8 * width, 64, 1)
        self.fc1 = nn.Linear(64 * (size // 16) ** 2, features)
        self.fc2 = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.project(self.trunk(x))).flatten(1)  # (N, 64 · 8 · 8)
        return F.relu(self.fc2(F.relu(self.fc1(x))))[:, None]  # (N, 1, D)


class VGG16(nn.Module):
    """f as published: the first 10 convolutions of VGG-16 (Simonyan and Zisserman 2014) and two fully-connected layers of 1024.

    The convolutions bear the names of torchvision's state dict (features.0 … features.21). A max pooling follows
    the tenth, as in VGG-16.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0):  # 0: max pooling
            layers += [nn.MaxPool2d(2)] if channels == 0 else [nn.Conv2d(previous, channels, 3, padding=1), nn.ReLU(inplace=True)]
            previous = channels or previous
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(512 * (size // 16) ** 2, features)
        self.fc2 = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)  # (N, 512 · 8 · 8)
        return F.relu(self.fc2(F.relu(self.fc1(x))))[:, None]  # (N, 1, 1024)


class Mapping(nn.Module):
    """g: two residual blocks of two fully-connected layers each, from features of real images to those of synthetic ones.
    It starts as the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, features)) for _ in range(2)
        )
        for block in self.blocks:
            nn.init.zeros_(block[2].weight)  # type: ignore[index]
            nn.init.zeros_(block[2].bias)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = F.relu(x + block(x))
        return x


class PosePredictor(nn.Module):
    """h: one fully-connected layer, 2 coordinates for each corner; with several cells also a confidence for each; and, beyond the
    paper, the error to expect.

    Coordinates are normalised: 0 is the window's centre, ±1 its borders. A cell's vote is relative to the cell's centre.
    """

    anchors: Tensor

    def __init__(self, features: int, cells: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, 2 * CORNERS)
        self.confidence = nn.Linear(features, 1) if cells > 1 else None
        self.error = nn.Linear(features, 1)
        side = math.isqrt(cells)
        centres = (torch.arange(side) + 0.5) * 2.0 / side - 1.0
        v, u = torch.meshgrid(centres, centres, indexing="ij")
        anchors = torch.stack([u, v], -1).reshape(1, cells, 1, 2)  # zero where there is one cell
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L, D) -> votes (N, L, 8, 2); weights (N, L) that sum to one; log_error (N,), the logarithm of the RMS error to
        expect in a coordinate, which learns from the features without changing them (`losses.L_u`)."""
        votes = self.fc(features).float().unflatten(-1, (CORNERS, 2)) + self.anchors
        log_errors = self.error(features.detach()).float().squeeze(-1)  # (N, L)
        confidences = log_errors if self.confidence is None else self.confidence(features).float().squeeze(-1)
        weights = confidences.softmax(1)  # one where L = 1
        return votes, weights, (weights.detach() * log_errors).sum(1)


class FeatureMapping(nn.Module):
    """f, g and h together."""

    def __init__(self, config: NetworkConfig, size: int = 128) -> None:
        super().__init__()
        self.config, self.size = config, size
        self.feature_size = D = config.features if config.extractor == "compact" else 1024
        if config.extractor == "compact":
            self.f: nn.Module = Compact(config.width, D)
        elif config.extractor == "compact_global":
            self.f = CompactGlobal(config.width, D, size)
        else:
            self.f = VGG16(D, size)
        self.g: nn.Module = Mapping(D) if config.mapping else nn.Identity()
        self.h = PosePredictor(D, (size // 16) ** 2 if config.extractor == "compact" else 1)
        for module in self.f.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.f.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.weight)

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        """(N, S, S, 3) uint8 RGB -> (N, 3, S, S) float32, about zero mean and unit variance."""
        return (images.permute(0, 3, 1, 2).float() - 127.5) * (1.0 / 64.0)


class Fused(nn.Module):
    """h∘g∘f with the input's normalisation as one network (section 3.3): what is exported."""

    def __init__(self, model: FeatureMapping) -> None:
        super().__init__()
        self.f, self.g, self.h, self.size = model.f, model.g, model.h, model.size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, S, 3) uint8 RGB -> corners (N, 8, 2) in window pixels, spread (N, 8, 2): expected standard deviation."""
        votes, weights, log_error = self.h(self.g(self.f(FeatureMapping.normalise(image))))
        corners = (weights[..., None, None] * votes).sum(1)  # (N, 8, 2)
        half = self.size / 2
        return corners * half + (half - 0.5), torch.ones_like(corners) * (log_error.exp() * half)[:, None, None]


def build_fused(architecture: dict[str, object]) -> Fused:
    """The fused network of a bundle's `architecture` (a NetworkConfig as a dict, and `size`), with random weights."""
    values = dict(architecture)
    size = int(values.pop("size", 128))  # type: ignore[call-overload]
    return Fused(FeatureMapping(from_dict(NetworkConfig, values, "architecture"), size)).eval()
