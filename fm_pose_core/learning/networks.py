"""The paper's three networks (section 3.4): feature extractor f, mapping g, pose predictor h, and how they are fused.

f's features are (N, L, D): L cells of D numbers, see `extractors`. The same g and h are applied to each cell: a
fully-connected layer that all cells share is a 1×1 convolution. With L = 1 this is the paper's network. `heads` has h.
"""

import logging
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fm_pose_core.bundle import MANIFEST, network_file
from fm_pose_core.config import from_dict, knob
from fm_pose_core.contract import Contract
from fm_pose_core.errors import expect
from fm_pose_core.files import expanded
from fm_pose_core.learning.extractors import EXTRACTORS, Extractor
from fm_pose_core.learning.heads import HEADS
from fm_pose_core.runtime.weights import named_weights

log = logging.getLogger(__name__)


def is_bundle(source: str) -> bool:
    """Whether weights to begin with are those of a bundle, by its folder."""
    return (expanded(source) / MANIFEST).is_file()


@dataclass(frozen=True)
class NetworkConfig:
    extractor: str = knob(
        "compact",
        "f: compact (one feature for each cell of 16 pixels), fine (of 8 pixels), efficientnet_lite0 (of 8 pixels, "
        "begins with weights from ImageNet: `weights`), efficientnet_lite0_whole (the same, with cells of 32 pixels "
        "that tell of the whole window), compact_global (the paper's global feature), vgg16 (as published for objects) "
        "or resnet50 (as published for hands).",
        choices=tuple(EXTRACTORS),
    )
    width: int = knob(
        24, "Channels w of the compact extractors, whose stages have 2w, 4w and 8w; the finer cells see 4w.", 8, 256
    )
    features: int = knob(256, "Feature size D of those with cells; the others have 1024 as published.", 16, 4096)
    depth: int = knob(
        1,
        "Residual blocks of the finer cells, of the extractors that have such (beyond the first one they begin as the "
        "identity).",
        1,
        16,
    )
    surface: bool = knob(
        False, "Whether h also answers which point of the object each cell shows, for objects (beyond the paper)."
    )
    distance: bool = knob(False, "Whether h also answers how far away the object is, for objects (beyond the paper).")
    presence: bool = knob(False, "Whether h also answers if there is a hand, for hands (beyond the paper).")
    mapping: bool = knob(True, "Whether g exists. The method decides; a bundle records it.")
    weights: str = knob(
        "",
        "Where the weights begin: the folder of a bundle, of whose network of the same kind all is taken that fits "
        "(that of other objects saves a part of the training; that of a narrower network begins a wider one); for "
        "vgg16 also a torchvision state dict file, or 'torchvision' for the published one; for efficientnet_lite0 also "
        "'imagenet'. Several with commas between: the later one's, where both have such. Empty: random ones.",
    )

    @property
    def sources(self) -> list[str]:
        """The parts of `weights`."""
        return [x.strip() for x in self.weights.split(",") if x.strip()]

    @property
    def from_bundle(self) -> bool:
        """Whether a bundle is among them."""
        return any(is_bundle(x) for x in self.sources)


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


class Compared(Extractor):
    """f of two images, which lie behind each other: their features side by side in each cell, (N, L, 2D). f stays as it
    is."""

    def __init__(self, f: Extractor) -> None:
        nn.Module.__init__(self)
        self.each, self.cells, self.feature_size = f, f.cells, 2 * f.feature_size
        f.requires_grad_(False)

    def initialise(self) -> None:
        self.each.initialise()

    def forward(self, x: Tensor) -> Tensor:
        features = self.each(torch.cat(x.chunk(2, dim=1)))
        return torch.cat(features.chunk(2), -1)


class MappedFirst(nn.Module):
    """g of the first of two images. g stays as it is."""

    def __init__(self, g: nn.Module) -> None:
        super().__init__()
        self.g = g
        g.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        seen, drawn = x.chunk(2, -1)
        return torch.cat([self.g(seen), drawn], -1)


class FeatureMapping(nn.Module):
    """f, g and h together; f sees real images, and synthetic ones too, unless these have an extractor f_s of their own
    (`unshared`, for methods that adapt by two extractors). f_s is not needed at run time."""

    def __init__(self, config: NetworkConfig, contract: Contract, unshared: bool = False) -> None:
        super().__init__()
        self.config, self.contract = config, contract
        two = contract.channels == 6  # h compares the features of two images
        make, channels = EXTRACTORS[config.extractor], 3 if two else contract.channels
        f = make(channels, contract.size, config.width, config.features, config.depth)
        g = Mapping(f.feature_size) if config.mapping else nn.Identity()
        self.f: Extractor = Compared(f) if two else f
        self.g: nn.Module = MappedFirst(g) if two else g
        self.h = HEADS[contract.head](self.f.feature_size, self.f.cells, contract)
        self.f.initialise()
        for source in config.sources:
            if is_bundle(source):
                _take_over(self, expanded(source))
            else:
                self.f.load_weights(source)
        self.f_s: Extractor | None = deepcopy(self.f) if unshared else None

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        """(N, S, S, C) -> (N, C, S, S) float32: uint8 RGB to about zero mean and unit variance; depth in [-1, 1] as it
        is."""
        planes = images.permute(0, 3, 1, 2).float()
        return (planes - 127.5) * (1.0 / 64.0) if images.dtype == torch.uint8 else planes


def _take_over(model: FeatureMapping, bundle: Path) -> None:
    """What fits of a bundle's network of the same kind: weights that have the name of one of the model's, and its shape
    or that of a narrower layer. What h has none for begins at zero: the features are large already, and random answers
    to them would be far off, and their errors would harm f. Raises InputError if f has none of it."""
    stored = {
        k: torch.from_numpy(v.copy()) for k, v in named_weights(network_file(bundle, model.contract.head)).items()
    }
    own = model.state_dict()
    begun = {k: _widened(own[k], v.float(), k) for k, v in stored.items() if k in own}
    fitting = {k: v for k, v in begun.items() if v is not None}
    of_f = sum(k.startswith("f.") for k in fitting)
    fixed = {k for k, p in model.named_parameters() if k.startswith("f.") and not p.requires_grad}  # never learned
    wanted = f"weights to begin with, of an f like {model.config.extractor}"
    expect(of_f > 0 and fixed <= fitting.keys(), str(bundle), wanted, "another f")
    model.load_state_dict(fitting, strict=False)
    with torch.no_grad():
        for name, p in model.h.named_parameters(prefix="h"):
            if name not in fitting:
                p.zero_()
    log.info("%s: %d of %d parameters begin as there, %d of them of f", bundle, len(fitting), len(own), of_f)


def _widened(own: Tensor, stored: Tensor, name: str) -> Tensor | None:
    """The weights of a layer that begins with those of a narrower one and answers as it does, in its first channels:
    these do not see the channels that the narrower layer has not (Chen et al., Net2Net, 2016, widen otherwise). None
    where the layer is no wider one. What h answers must be the same."""
    if own.shape == stored.shape:
        return stored
    wider = own.dim() == stored.dim() and all(o >= s for o, s in zip(own.shape, stored.shape, strict=True))
    kernels = own.shape[2:] == stored.shape[2:]
    if not (wider and kernels) or (name.startswith("h.") and own.shape[0] != stored.shape[0]):
        return None
    weight, outputs = own.clone(), len(stored)
    weight[:outputs] = 0.0
    weight[tuple(slice(n) for n in stored.shape)] = stored
    return weight


class Fused(nn.Module):
    """h∘g∘f with the input's normalisation as one network (section 3.3): what is exported. Without g where
    `use_mapping` is false: as renderings are seen."""

    def __init__(self, model: FeatureMapping, use_mapping: bool = True) -> None:
        super().__init__()
        self.f, self.h, self.contract = model.f, model.h, model.contract
        self.g = model.g if use_mapping else nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, S, S, C), see Contract -> the outputs in the contract's order and units."""
        prediction = self.h(self.g(self.f(FeatureMapping.normalise(image))))
        answers = self.h.decode(prediction)
        return tuple(answers[x.name] for x in self.contract.outputs)

    def infer(self, images: NDArray[np.generic], chunk: int = 64) -> dict[str, NDArray[np.float32]]:
        """As a runtime backend does it, `chunk` images at a time: windows (N, S, S, C) -> the named outputs."""
        device, training = next(self.parameters()).device, self.training
        self.eval()  # else batch normalisation would learn from these images
        with torch.inference_mode():
            parts = [self(torch.from_numpy(images[i : i + chunk]).to(device)) for i in range(0, len(images), chunk)]
        self.train(training)
        columns = (torch.cat(column).float().cpu().numpy() for column in zip(*parts, strict=True))
        return dict(zip((x.name for x in self.contract.outputs), columns, strict=True))


def build_fused(architecture: dict[str, object], contract: Contract) -> Fused:
    """The fused network of a bundle's `architecture` (a NetworkConfig as a dict), with random weights."""
    values = {k: v for k, v in architecture.items() if k != "size"}  # which is the contract's
    return Fused(FeatureMapping(from_dict(NetworkConfig, values, "architecture"), contract)).eval()
