"""Parameters of object_pose_node."""

from dataclasses import dataclass

from fm_pose_core.config import EstimatorConfig, knob
from fm_pose_ros.node_config import ENGINE_FIXED, NODE, Configs, check_frames

SOURCE = (
    "Where to look: own (the bundle's own detector), detections (2D detections), fixed (window_u, window_v), tracking "
    "(last poses; initial_window for the rest), auto (own if the bundle has a detector, else tracking)."
)
INITIAL = (
    "With tracking: where the first window, or that of a lost or further object, comes from; auto: own if the bundle "
    "has a detector, else fixed."
)
SEARCH = (
    "With tracking: while anything is tracked, the bundle's own detector looks for the rest no more often than this, "
    "seconds; 0: in each image."
)
LOST = "An object counts as lost after so many frames without an accepted pose, in a row or among twice as many."
QUEUE = "Images that wait for their 2D detections, at most: the detector's delay times the frame rate, and a few more."
FILTER = "Filter the published poses: constant velocity, each pose weighted by its covariance (a Kalman filter)."


@dataclass(frozen=True)
class ObjectNodeConfig:
    """Where to look, what to follow, what to publish."""

    bundle: str = knob(
        "", "Folder of a bundle, or the name of one in the package's models; more bundles with ':' between."
    )
    window_source: str = knob("auto", SOURCE, choices=("auto", "own", "detections", "fixed", "tracking"))
    initial_window: str = knob("auto", INITIAL, choices=("auto", "own", "fixed", "detections"))
    window_u: float = knob(
        -1.0, "Centre of the fixed window, pixels from the left of the image; -1: the middle.", -1.0, 65535.0
    )
    window_v: float = knob(
        -1.0, "Centre of the fixed window, pixels from the top of the image; -1: the middle.", -1.0, 65535.0
    )
    search_interval: float = knob(0.3, SEARCH, 0.0, 3600.0)
    detection_class: str = knob("", "Class id of the 2D detections to use; empty: the object's name; '*': any.")
    detection_min_score: float = knob(0.0, "2D detections below this score are left out.", 0.0, 1.0)
    detection_tolerance: float = knob(
        0.005, "Largest difference between an image's stamp and its 2D detections', seconds.", 0.0, 10.0
    )
    detection_queue: int = knob(15, QUEUE, 1, 1000)
    max_instances: int = knob(1, "Objects of one class in one image, at most.", 1, 100)
    lost_after: int = knob(5, LOST, 1, 1000)
    filter: bool = knob(False, FILTER)
    acceleration: float = knob(
        5.0, "With filter: how quickly objects change their velocity, m/s²; less is smoother.", 1e-3, 1000.0
    )
    angular_acceleration: float = knob(20.0, "With filter: likewise of their turning, rad/s².", 1e-3, 1e4)
    publish_tf: bool = knob(True, "Send the transform from the camera's frame to the object's.")
    child_frame: str = knob("", "TF frame of the object; empty: its name. Further instances get _2, _3, … behind it.")
    tf_prefix: str = knob("", "In front of the objects' TF frames, such as left/: two cameras may see one object.")
    marker: str = knob("box", "What RViz shows on ~/markers.", choices=("box", "mesh", "both"))
    marker_lifetime: float = knob(
        1.0, "Seconds after which a marker disappears if no new one comes; 0: never.", 0.0, 3600.0
    )

    def sources(self, can_detect: bool) -> tuple[str, str]:
        """window_source and initial_window for a bundle that has a detector, or has none."""
        own = {"auto": "own"} if can_detect else {}
        source = own.get(self.window_source, self.window_source).replace("auto", "tracking")
        return source, own.get(self.initial_window, self.initial_window).replace("auto", "fixed")

    def __post_init__(self) -> None:
        check_frames(child_frame=self.child_frame, tf_prefix=self.tf_prefix)


# Fixed at the start: what decides about networks, subscriptions and frame names.
FIXED = ("bundle", "window_source", "initial_window", "detection_queue", "child_frame", "tf_prefix")
PARAMETERS: Configs = {ObjectNodeConfig: FIXED, EstimatorConfig: ENGINE_FIXED, **NODE}
