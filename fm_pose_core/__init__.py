"""6D object pose from one RGB image, and the joints of a hand from one depth map, by feature mapping (Rad, Oberweger,
Lepetit, CVPR 2018). Free of ROS.

The names below load on first use, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what the lazy names are, for type checkers and editors
    from fm_pose_core.config import EstimatorConfig as EstimatorConfig
    from fm_pose_core.config import HandEstimatorConfig as HandEstimatorConfig
    from fm_pose_core.hands.estimator import HandEstimator as HandEstimator
    from fm_pose_core.hands.estimator import HandPose as HandPose
    from fm_pose_core.objects.estimator import PoseEstimator as PoseEstimator
    from fm_pose_core.types import Camera as Camera
    from fm_pose_core.types import ObjectPose as ObjectPose
    from fm_pose_core.types import Window as Window

__version__ = "0.1.0"

_LAZY = {
    "Camera": "types",
    "Window": "types",
    "ObjectPose": "types",
    "PoseEstimator": "objects.estimator",
    "HandEstimator": "hands.estimator",
    "HandPose": "hands.estimator",
    "EstimatorConfig": "config",
    "HandEstimatorConfig": "config",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
