"""Methods that learn from renderings and real images: the paper's, its baselines, and the others of its Table 1. A new
one is a file here and a line in METHODS."""

from fm_pose_core.learning.adaptation.adda import ADDA
from fm_pose_core.learning.adaptation.ddc import DDC
from fm_pose_core.learning.adaptation.feature_mapping import (
    FEATURE_MAPPING,
    HEAD_ALONE,
    MAPPING_ALONE,
    REAL_ONLY,
    SYNTHETIC_ONLY,
    WITHOUT_MAPPING,
)
from fm_pose_core.learning.adaptation.gradient_reversal import GRADIENT_REVERSAL
from fm_pose_core.learning.adaptation.method import Method
from fm_pose_core.learning.adaptation.rozantsev import ROZANTSEV

PAPER = (SYNTHETIC_ONLY, REAL_ONLY, WITHOUT_MAPPING, FEATURE_MAPPING, ROZANTSEV, GRADIENT_REVERSAL, DDC, ADDA)
BEYOND = (MAPPING_ALONE, HEAD_ALONE)
METHODS: dict[str, Method] = {method.name: method for method in (*PAPER, *BEYOND)}
