"""f as published (section 3.4): one feature of 1024 that sees the whole image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.errors import expect
from fm_pose_core.learning.extractors.base import Extractor, extractor, read_state_dict

PUBLISHED_FEATURES = 1024  # section 3.4
TORCHVISION_VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"  # the name ends in its SHA-256's beginning


class Global(Extractor):
    """The paper's head of f: two fully-connected layers of 1024 that see the whole image."""

    cells = 1
    feature_size = PUBLISHED_FEATURES

    def _connect(self, inputs: int) -> None:
        self.fc1 = nn.Linear(inputs, self.feature_size)
        self.fc2 = nn.Linear(self.feature_size, self.feature_size)

    def _see_all(self, x: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))[:, None]  # (N, 1, 1024)


@extractor("vgg16")
class VGG16(Global):
    """As published for objects: the first 10 convolutions of VGG-16 (Simonyan and Zisserman 2014) and two
    fully-connected layers of 1024.

    The convolutions bear the names of torchvision's state dict (features.0 … features.21). A max pooling follows the
    tenth, as in VGG-16.
    """

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__(channels, size, width, features, depth)
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
    return read_state_dict(source, "a VGG-16 state dict, or 'torchvision'")


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

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__(channels, size, width, features, depth)
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
