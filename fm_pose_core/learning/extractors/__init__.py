"""f: feature extractors. Each is a class that states its cells and its feature size, and a name in the registry.

Features are (N, L, D): L cells of D numbers. The published networks have one cell of 1024 (two fully-connected layers
see the whole image). `compact` keeps one feature vector for each cell of 16×16 pixels of the image, `fine` and
`efficientnet_lite0` of 8×8.
"""

from fm_pose_core.learning.extractors import compact, efficientnet, published  # they enter themselves
from fm_pose_core.learning.extractors.base import EXTRACTORS, Extractor, extractor

__all__ = ["EXTRACTORS", "Extractor", "compact", "efficientnet", "extractor", "published"]
