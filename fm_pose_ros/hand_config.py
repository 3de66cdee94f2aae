"""Parameters of hand_pose_node."""

from dataclasses import dataclass

from fm_pose_core.config import HandEstimatorConfig, knob
from fm_pose_core.hands.locate import SearchConfig
from fm_pose_ros.node_config import ENGINE_FIXED, NODE, Configs, check_frames


@dataclass(frozen=True)
class HandNodeConfig:
    """Where to look, what to publish."""

    bundle: str = knob("", "Folder of the hand's bundle, or the name of one in the package's models.")
    window_source: str = knob(
        "nearest",
        "Where to look: nearest (blob in the depth range), tracking (the same; while a hand is found, where it was "
        "just now, which takes less time) or detections (2D detections).",
        choices=("nearest", "tracking", "detections"),
    )
    detection_class: str = knob("*", "Class id of the 2D detections to use; '*': any.")
    detection_min_score: float = knob(0.0, "2D detections below this score are left out.", 0.0, 1.0)
    detection_tolerance: float = knob(
        0.005, "Largest difference between a depth map's stamp and its 2D detections', seconds.", 0.0, 10.0
    )
    detection_queue: int = knob(15, "Depth maps that wait for their 2D detections, at most.", 1, 1000)
    refine: bool = knob(False, "Cut a second time around the first answer: more time.")
    mirror: bool = knob(
        False, "The hands are of the other side than the bundle's: left ones for a bundle of right hands."
    )
    max_joint_error: float = knob(
        0.03, "A joint is valid while its expected standard deviation is below this, metres.", 0.0, 1.0
    )
    publish_tf: bool = knob(False, "Send a transform from the camera's frame to each joint.")
    tf_prefix: str = knob("", "In front of the joints' names in TF; empty: the bundle's name and a slash.")
    marker_lifetime: float = knob(
        1.0, "Seconds after which the skeleton disappears if no new one comes; 0: never.", 0.0, 3600.0
    )

    def __post_init__(self) -> None:
        check_frames(tf_prefix=self.tf_prefix)


# Fixed at the start: what decides about networks and subscriptions.
FIXED = ("bundle", "window_source", "detection_queue")
PARAMETERS: Configs = {HandNodeConfig: FIXED, SearchConfig: (), HandEstimatorConfig: ENGINE_FIXED, **NODE}
