"""The paper's three networks (section 3.4): feature extractor f, mapping g, pose predictor h. The whole model in one
file.

Features are (N, L, D): L cells of D numbers. The published network has one cell of 1024 (two fully-connected layers see
the whole image). `compact` keeps one feature vector per image cell, and applies the same g and h to each: a
fully-connected layer shared by all cells is a 1×1 convolution. Every cell then votes for the 8 corners, with a
confidence; with L = 1 this is the paper's network.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.config import from_dict, knob
from fm_pose_core.contract import OBJECT_POSE, Contract, object_contract
from fm_pose_core.errors import expect


@dataclass(frozen=True)
class NetworkConfig:
    extractor: str = knob(
        "compact",
        "f: compact (one feature per cell), compact_global (the paper's global feature), vgg16 (as published for objects) or "
        "resnet50 (as published for hands).",
        choices=("compact", "compact_global", "vgg16", "resnet50"),
    )
    width: int = knob(24, "Channels w of the compact extractors, whose stages have 2w, 4w and 8w.", 8, 256)
    features: int = knob(256, "Feature size D of compact; the others have 1024 as published.", 16, 4096)
    mapping: bool = knob(True, "Whether g exists; without it h reads f's features of real images directly.")
    weights: str = knob(
        "",
        "Initial VGG-16 weights: a torchvision state dict file, 'torchvision' for the published URL, or empty for none.",
    )


class Residual(nn.Module):
    """relu(x + conv(relu(conv(x)))), the second convolution zero at first, in place of normalisation (Zhang et al.,
    Fixup, 2019): no statistics that differ between real and synthetic images, and half the time on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)


def _trunk(channels: int, w: int) -> nn.Sequential:
    """(N, channels, S, S) -> (N, 8w, S/16, S/16)."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * w, 8, stride=4, padding=2),
        nn.ReLU(inplace=True),
        Residual(2 * w),  # (N, 2w, 32, 32)
        # (N, 4w, 16, 16).
        nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        Residual(4 * w),
        Residual(4 * w),
        # (N, 8w, 8, 8).
        nn.Conv2d(4 * w, 8 * w, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        Residual(8 * w),
        Residual(8 * w),
    )


class Compact(nn.Module):
    """f for CPUs: one feature vector per cell of 16×16 pixels."""

    def __init__(self, channels: int, width: int, features: int) -> None:
        super().__init__()
        self.trunk = _trunk(channels, width)
        self.project = nn.Conv2d(8 * width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.trunk(x))  # (N, D, 8, 8)
        return F.relu(x).flatten(2).transpose(1, 2)  # (N, 64, D)


class CompactGlobal(nn.Module):
    """f for CPUs with the paper's head: two fully-connected layers of 1024 that see the whole image."""

    def __init__(self, channels: int, width: int, features: int, size: int) -> None:
        super().__init__()
        self.trunk = _trunk(channels, width)
        self.project = nn.Conv2d(8 * width, 64, 1)
        self.fc1 = nn.Linear(64 * (size // 16) ** 2, features)
        self.fc2 = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.project(self.trunk(x))).flatten(1)  # (N, 64 · 8 · 8)
        return F.relu(self.fc2(F.relu(self.fc1(x))))[:, None]  # (N, 1, D)


class VGG16(nn.Module):
    """f as published: the first 10 convolutions of VGG-16 (Simonyan and Zisserman 2014) and two fully-connected layers
    of 1024.

    The convolutions bear the names of torchvision's state dict (features.0 … features.21). A max pooling follows
    the tenth, as in VGG-16.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0):  # 0: max pooling
            layers += (
                [nn.MaxPool2d(2)]
                if channels == 0
                else [nn.Conv2d(previous, channels, 3, padding=1), nn.ReLU(inplace=True)]
            )
            previous = channels or previous
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(512 * (size // 16) ** 2, features)
        self.fc2 = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)  # (N, 512 · 8 · 8)
        return F.relu(self.fc2(F.relu(self.fc1(x))))[:, None]  # (N, 1, 1024)


class Bottleneck(nn.Module):
    """A residual block of three convolutions (He et al. 2016), as in the 50-layer network."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        inner = out // 4
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        same = channels == out and stride == 1
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x), inplace=True)


class ResNet50(nn.Module):
    """f as published for hands: "similar to the 50-layer Residual Network with 4 residual modules" without global
    average pooling, and two fully-connected layers of 1024. The modules are those of the code of [31, 33]
    (DeepPrior++): a 5×5 convolution with 32 channels and pooling, then 5 blocks each of 64, 128, 256 and 256 channels,
    each module halving the resolution."""

    def __init__(self, channels: int, features: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        previous = 32
        for out in (64, 128, 256, 256):
            for k in range(5):
                layers.append(Bottleneck(previous, out, 2 if k == 0 else 1))
                previous = out
        self.blocks = nn.Sequential(*layers)
        self.fc1 = nn.Linear(previous * (size // 32) ** 2, features)
        self.fc2 = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x).flatten(1)
        return F.relu(self.fc2(F.relu(self.fc1(x))))[:, None]


class Mapping(nn.Module):
    """g: two residual blocks of two fully-connected layers each, from features of real images to those of synthetic
    ones. It starts as the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, features))
            for _ in range(2)
        )
        for block in self.blocks:
            nn.init.zeros_(block[2].weight)  # type: ignore[index]
            nn.init.zeros_(block[2].bias)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = F.relu(x + block(x))
        return x


class PosePredictor(nn.Module):
    """h: one fully-connected layer, `dims` coordinates for each of the points (8 corners in 2D, joints in 3D); with
    several cells also a confidence for each; and, beyond the paper, the error to expect.

    Coordinates are normalised: 0 is the centre of the window (or cube), ±1 its borders. A cell's vote is relative to
    the cell's centre. Corners hang together rigidly and share a cell's confidence and error; each joint has its own.
    """

    anchors: Tensor

    def __init__(self, features: int, cells: int, contract: Contract) -> None:
        super().__init__()
        self.points, self.dims = contract.points, contract.dims
        each = 1 if contract.task == OBJECT_POSE else contract.points
        self.fc = nn.Linear(features, self.points * self.dims)
        self.confidence = nn.Linear(features, each) if cells > 1 else None
        self.error = nn.Linear(features, each)
        side = math.isqrt(cells)
        centres = (torch.arange(side) + 0.5) * 2.0 / side - 1.0
        v, u = torch.meshgrid(centres, centres, indexing="ij")
        anchors = torch.zeros(1, cells, 1, self.dims)  # zero where there is one cell
        anchors[..., :2] = torch.stack([u, v], -1).reshape(1, cells, 1, 2)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L, D) -> votes (N, L, P, dims); weights (N, L, P or 1) that sum to one over the cells; log_error (N, P or
        1), the logarithm of the RMS error to expect in a coordinate, which learns from the features without changing
        them (`losses.L_u`)."""
        votes = self.fc(features).float().unflatten(-1, (self.points, self.dims)) + self.anchors
        log_errors = self.error(features.detach()).float()  # (N, L, P or 1)
        confidences = log_errors if self.confidence is None else self.confidence(features).float()
        weights = confidences.softmax(1)  # one where L = 1
        return votes, weights, (weights.detach() * log_errors).sum(1)


class FeatureMapping(nn.Module):
    """f, g and h together. For objects (a window of 128 pixels) unless `contract` says otherwise."""

    def __init__(self, config: NetworkConfig, contract: Contract | None = None) -> None:
        super().__init__()
        self.config = config
        self.contract = contract = contract or object_contract()
        size, channels = contract.size, contract.channels
        per_cell = config.extractor == "compact"
        self.feature_size = D = config.features if per_cell else 1024
        if per_cell:
            self.f: nn.Module = Compact(channels, config.width, D)
        elif config.extractor == "compact_global":
            self.f = CompactGlobal(channels, config.width, D, size)
        elif config.extractor == "vgg16":
            expect(
                channels == 3, "network.extractor", "one for depth maps (compact, compact_global, resnet50)", "vgg16"
            )
            self.f = VGG16(D, size)
        else:
            self.f = ResNet50(channels, D, size)
        self.g: nn.Module = Mapping(D) if config.mapping else nn.Identity()
        self.h = PosePredictor(D, (size // 16) ** 2 if per_cell else 1, contract)
        for module in self.f.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.f.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.weight)

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        """(N, S, S, C) -> (N, C, S, S) float32: uint8 RGB to about zero mean and unit variance; depth in [-1, 1] as it
        is."""
        planes = images.permute(0, 3, 1, 2).float()
        return (planes - 127.5) * (1.0 / 64.0) if images.dtype == torch.uint8 else planes


class Fused(nn.Module):
    """h∘g∘f with the input's normalisation as one network (section 3.3): what is exported."""

    def __init__(self, model: FeatureMapping) -> None:
        super().__init__()
        self.f, self.g, self.h, self.contract = model.f, model.g, model.h, model.contract

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, S, C), see Contract -> points and spread (N, P, dims) in the contract's units."""
        votes, weights, log_error = self.h(self.g(self.f(FeatureMapping.normalise(image))))
        points = (weights[..., None] * votes).sum(1)
        scale, shift = self.contract.scale, self.contract.shift
        return points * scale + shift, torch.ones_like(points) * (log_error.exp() * scale)[..., None]


def build_fused(architecture: dict[str, object], contract: Contract) -> Fused:
    """The fused network of a bundle's `architecture` (a NetworkConfig as a dict), with random weights."""
    values = {k: v for k, v in architecture.items() if k != "size"}  # which is the contract's
    return Fused(FeatureMapping(from_dict(NetworkConfig, values, "architecture"), contract)).eval()
