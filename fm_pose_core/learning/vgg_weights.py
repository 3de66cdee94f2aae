"""Initial weights of the published extractor: the convolutions of VGG-16 trained on ImageNet, as torchvision publishes
them."""

from pathlib import Path

import torch
from torch import nn

from fm_pose_core.errors import InputError, expect
from fm_pose_core.learning.networks import VGG16

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"  # the name ends in the first 8 digits of its SHA-256
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's input, of RGB in [0, 1]


def load_vgg16(network: nn.Module, source: str) -> None:
    """Fill the ten convolutions of `network` from a state dict: `source` is 'torchvision' (fetched from URL, checksum
    verified) or a file. Raises InputError if it is not such a state dict. No pickled code is run.

    The first convolution is adapted to our input, (x - 127.5) / 64 instead of torchvision's normalisation, exactly
    but for the zero padding at the border.
    """
    expect(isinstance(network, VGG16), "initial VGG-16 weights", "the extractor vgg16", type(network).__name__)
    if source == "torchvision":
        state = torch.hub.load_state_dict_from_url(URL, map_location="cpu", check_hash=True, weights_only=True)
    else:
        expect(Path(source).is_file(), source, "a VGG-16 state dict, or 'torchvision'", "nothing there")
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"{source}: expected a VGG-16 state dict, got {type(error).__name__}: {error}") from None
    own = network.state_dict()
    wanted = [k for k in own if k.startswith("features.")]
    missing = [k for k in wanted if k not in state or state[k].shape != own[k].shape]
    expect(not missing, source, "a VGG-16 state dict", f"no fitting {', '.join(missing[:3])}")
    own.update({k: state[k].float() for k in wanted})
    mean, std = torch.tensor(_MEAN), torch.tensor(_STD)
    first = own["features.0.weight"]
    own["features.0.bias"] = own["features.0.bias"] + (first * ((0.5 - mean) / std)[None, :, None, None]).sum((1, 2, 3))
    own["features.0.weight"] = first * (64.0 / (255.0 * std))[None, :, None, None]
    network.load_state_dict(own)
