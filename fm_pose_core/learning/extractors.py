"""f: feature extractors. Each is a class that states its cells and its feature size, and a name in the registry.

Features are (N, L, D): L cells of D numbers. The published networks have one cell of 1024 (two fully-connected layers
see the whole image). `compact` keeps one feature vector for each cell of 16×16 pixels of the image, `fine` of 8×8.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.errors import InputError, expect

PUBLISHED_FEATURES = 1024  # section 3.4
TORCHVISION_VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"  # the name ends in its SHA-256's beginning


class Extractor(nn.Module):
    """f: images (N, channels, size, size) -> features (N, cells, feature_size), see `FeatureMapping.normalise`.

    Made from `channels` and `size` of the window, and the configuration's `width` and `features`. cell: side of a cell,
    pixels; those with a single cell have no use for it.
    """

    cell: ClassVar[int] = 16
    cells: int
    feature_size: int

    def __init__(self, channels: int, size: int, width: int, features: int) -> None:
        super().__init__()

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
        raise InputError(f"network.weights: expected a bundle's folder for {type(self).__name__}, got {source!r}")


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

    def __init__(self, channels: int, size: int, width: int, features: int) -> None:
        super().__init__(channels, size, width, features)
        self.cells, self.feature_size = (size // self.cell) ** 2, features
        self.trunk = Trunk(channels, width)
        self.project = nn.Conv2d(8 * width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.trunk(x))  # (N, D, S/16, S/16)
        return F.relu(x).flatten(2).transpose(1, 2)  # (N, L, D)


@extractor("fine")
class Fine(Extractor):
    """As `compact`, with cells of 8×8 pixels: what the last stage sees goes back to the stage before (Lin et al.,
    Feature Pyramid Networks, 2017)."""

    cell = 8

    def __init__(self, channels: int, size: int, width: int, features: int) -> None:
        super().__init__(channels, size, width, features)
        self.cells, self.feature_size = (size // self.cell) ** 2, features
        self.trunk = Trunk(channels, width)
        self.lateral = nn.Conv2d(8 * width, 4 * width, 1)
        self.smooth = Residual(4 * width)
        self.project = nn.Conv2d(4 * width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.trunk.levels(x)
        fine = F.relu(fine + F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest"))
        return F.relu(self.project(self.smooth(fine))).flatten(2).transpose(1, 2)


class Global(Extractor):
    """The paper's head of f: two fully-connected layers of 1024 that see the whole image."""

    cells = 1
    feature_size = PUBLISHED_FEATURES

    def _connect(self, inputs: int) -> None:
        self.fc1 = nn.Linear(inputs, self.feature_size)
        self.fc2 = nn.Linear(self.feature_size, self.feature_size)

    def _see_all(self, x: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))[:, None]  # (N, 1, 1024)


@extractor("compact_global")
class CompactGlobal(Global):
    """For CPUs, with the paper's global feature."""

    def __init__(self, channels: int, size: int, width: int, features: int) -> None:
        super().__init__(channels, size, width, features)
        self.trunk = Trunk(channels, width)
        self.project = nn.Conv2d(8 * width, 64, 1)
        self._connect(64 * (size // 16) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        return self._see_all(F.relu(self.project(self.trunk(x))))


@extractor("vgg16")
class VGG16(Global):
    """As published for objects: the first 10 convolutions of VGG-16 (Simonyan and Zisserman 2014) and two
    fully-connected layers of 1024.

    The convolutions bear the names of torchvision's state dict (features.0 … features.21). A max pooling follows the
    tenth, as in VGG-16.
    """

    def __init__(self, channels: int, size: int, width: int, features: int) -> None:
        super().__init__(channels, size, width, features)
        expect(channels == 3, "network.extractor", "one for depth maps (compact, compact_global, resnet50)", "vgg16")
        layers: list[nn.Module] = []
        for out in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0):  # 0: max pooling
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)] if out else [nn.MaxPool2d(2)]
            channels = out or channels
        self.features = nn.Sequential(*layers)
        self._connect(512 * (size // 16) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        return self._see_all(self.features(x))  # (N, 512, S/16, S/16) before

    def load_weights(self, source: str) -> None:
        """Fill the ten convolutions from torchvision's state dict of VGG-16 on ImageNet. source: 'torchvision' (fetched
        from its address, checksum verified) or a file. Raises InputError if it is not such a state dict. No pickled
        code is run.

        The first convolution is adapted to our input, (x - 127.5) / 64 instead of torchvision's normalisation, exactly
        but for the zero padding at the border.
        """
        theirs = _state_dict(source)
        own = {k: v for k, v in self.state_dict().items() if k.startswith("features.")}
        missing = [k for k, v in own.items() if k not in theirs or theirs[k].shape != v.shape]
        expect(not missing, source, "a VGG-16 state dict", f"no fitting {', '.join(missing[:3])}")
        weights = {k: theirs[k].float() for k in own}
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))  # of RGB in [0, 1]
        first = weights["features.0.weight"]
        weights["features.0.bias"] = weights["features.0.bias"] + (
            first * ((0.5 - mean) / std)[None, :, None, None]
        ).sum((1, 2, 3))
        weights["features.0.weight"] = first * (64.0 / (255.0 * std))[None, :, None, None]
        self.load_state_dict(weights, strict=False)


def _state_dict(source: str) -> dict[str, Tensor]:
    if source == "torchvision":
        url = TORCHVISION_VGG16
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    expect(Path(source).is_file(), source, "a VGG-16 state dict, or 'torchvision'", "nothing there")
    try:
        state: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{source}: expected a VGG-16 state dict, got {type(error).__name__}: {error}") from None
    return state


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


@extractor("resnet50")
class ResNet50(Global):
    """As published for hands: "similar to the 50-layer Residual Network with 4 residual modules" without global average
    pooling, and two fully-connected layers of 1024. The modules are those of the code of [31, 33] (DeepPrior++): a 5×5
    convolution with 32 channels and pooling, then 5 blocks each of 64, 128, 256 and 256 channels, each module halving
    the resolution."""

    def __init__(self, channels: int, size: int, width: int, features: int) -> None:
        super().__init__(channels, size, width, features)
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        previous = 32
        for out in (64, 128, 256, 256):
            for k in range(5):
                layers.append(Bottleneck(previous, out, 2 if k == 0 else 1))
                previous = out
        self.blocks = nn.Sequential(*layers)
        self._connect(previous * (size // 32) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        return self._see_all(self.blocks(x))
