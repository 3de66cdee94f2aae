"""The loss of Eq. 1, L = L_hS + β L_hR + γ L_g, as named terms; and which network receives which gradient.

| term | images | path | gradient reaches |
|---|---|---|---|
| L_hS, Eq. 2 | x_s of T^S (and x_m, the synthetic halves of T^M) | h(f(x_s)) | f, h |
| L_hR, Eq. 3 | x_r of T^R | h(g(f(x_r))) | f, g, h |
| L_g, Eq. 4 | pairs (x_r, x_m) of T^M | g(f(x_r)) − f(x_m) | f, g; through f(x_m) too unless `target_gradient` is off |
| L_u (beyond the paper) | all | error output of h | that output alone |
| L_p (beyond the paper, an option) | all | points(f(x_s)), points(g(f(x_r))) | f, g |
| L_r (beyond the paper, an option) | all | corners and points of h(f(x_s)), h(g(f(x_r))) | f, g, h |
| L_z (beyond the paper, an option) | all | distance(f(x_s)), distance(g(f(x_r))) | f, g, h |
| L_c (beyond the paper, an option) | all | presence(f(x_s)), presence(g(f(x_r))) | f, g, h |
| L_f (beyond the paper, an option) | all | f(x) | f |

Terms of other methods are in `adaptation`. Sums over the training set become means over a batch; sums over coordinates
and features stay. With several cells per image h's prediction is the weighted mean of their votes, and Eq. 4 is
averaged evenly over cells. L_u teaches h to expect its error. L_p asks each cell's features which point of the object
it shows, if any: a dense task beside the pose, which f learns much sooner. L_r asks for the rotation of the pose that
PnP would make of corners and points. L_z asks for the object's distance: its apparent size, of which the corners'
errors in pixels say little (Li et al., CDPN, ICCV 2019). L_c asks whether there is a hand in the window. L_f keeps
features small. With `LossConfig.sure`, L_hS, L_hR, L_r and L_z weigh images by what h expects of them.
"""

from fm_pose_core.learning.losses.beside import (
    BESIDE,
    ExpectedError,
    FeatureSize,
    HandPresence,
    ObjectDistance,
    PoseRotation,
    SurfacePoints,
)
from fm_pose_core.learning.losses.objective import Batch, Objective
from fm_pose_core.learning.losses.paper import MappedFeatures, RealPose, SyntheticPose
from fm_pose_core.learning.losses.term import Answers, LossConfig, Seen, Term

POSE_TERMS: tuple[type[Term], ...] = (SyntheticPose, RealPose, *BESIDE)

__all__ = [
    "BESIDE",
    "POSE_TERMS",
    "Answers",
    "Batch",
    "ExpectedError",
    "FeatureSize",
    "HandPresence",
    "LossConfig",
    "MappedFeatures",
    "ObjectDistance",
    "Objective",
    "PoseRotation",
    "RealPose",
    "Seen",
    "SurfacePoints",
    "SyntheticPose",
    "Term",
]
