"""Feature mapping (Rad, Oberweger, Lepetit: Feature Mapping for Learning Fast and Accurate 3D Pose Inference from
Synthetic Images, CVPR 2018), and what it is compared with: the same without g and L_g, renderings alone, and real
images alone (BB8 without refinement, in Table 1). Beyond the paper, to see what g does by itself: f stays as the
renderings left it, and then only g learns, or only h without g."""

from fm_pose_core.learning.adaptation.method import Method, both, pairs, real_alone, synthetic_alone
from fm_pose_core.learning.losses import BESIDE, ExpectedError, HandPresence, MappedFeatures, RealPose, SyntheticPose

EQUATION_1 = (SyntheticPose, RealPose, MappedFeatures)  # L = L_hS + β L_hR + γ L_g

FEATURE_MAPPING = Method("feature_mapping", both, (*EQUATION_1, *BESIDE), mapping=True)
WITHOUT_MAPPING = Method("without_mapping", both)
SYNTHETIC_ONLY = Method("synthetic_only", synthetic_alone)
REAL_ONLY = Method("real_only", real_alone)
MAPPING_ALONE = Method("mapping_alone", pairs, (RealPose, MappedFeatures), mapping=True, frozen=("f", "h"))
HEAD_ALONE = Method("head_alone", both, (SyntheticPose, RealPose, ExpectedError, HandPresence), frozen=("f",))
