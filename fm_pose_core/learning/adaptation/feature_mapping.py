"""Feature mapping (Rad, Oberweger, Lepetit, CVPR 2018), and the baselines that it is compared with."""

from fm_pose_core.learning.adaptation.method import Method, both, real_alone, synthetic_alone
from fm_pose_core.learning.losses import ExpectedError, MappedFeatures, RealPose, SurfacePoints, SyntheticPose

PAPER = "Rad, Oberweger, Lepetit: Feature Mapping for Learning Fast and Accurate 3D Pose Inference (CVPR 2018)"
EQUATION_1 = (SyntheticPose, RealPose, MappedFeatures)  # L = L_hS + β L_hR + γ L_g

FEATURE_MAPPING = Method("feature_mapping", PAPER, both, (*EQUATION_1, ExpectedError, SurfacePoints), mapping=True)
WITHOUT_MAPPING = Method("without_mapping", f"{PAPER}, without g and L_g", both)
SYNTHETIC_ONLY = Method("synthetic_only", f"{PAPER}, section 4", synthetic_alone)
REAL_ONLY = Method("real_only", f"{PAPER}, Table 1: BB8 without refinement", real_alone)
