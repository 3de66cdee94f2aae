"""The node hand_pose_node: a depth map and a camera_info in, named 3D joints of the hand out."""

import os
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray, Quaternion, TransformStamped, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray
from visualization_msgs.msg import Marker, MarkerArray

from fm_pose_core.config import EngineConfig
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.estimator import HandEstimator, HandPose
from fm_pose_core.hands.locate import Detected, SearchConfig
from fm_pose_core.types import Detection
from fm_pose_ros.conversions import compressed_depth_to_metres, depth_to_metres, point_msg, rgb_to_image
from fm_pose_ros.hand_config import FIXED, HandNodeConfig
from fm_pose_ros.hand_drawing import draw_hand, skeleton_markers
from fm_pose_ros.matching import Matcher
from fm_pose_ros.msg import HandJoints
from fm_pose_ros.node_base import Frame, PoseNodeBase, run_node

ESTIMATOR_FIXED = ("backend", "precision", "threads")


class HandPoseNode(PoseNodeBase):
    """3D joints of the nearest hand."""

    image_topic = "depth/image_rect_raw"
    compressed_suffix = "/compressedDepth"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            "hand_pose_node", {HandNodeConfig: FIXED, SearchConfig: (), EngineConfig: ESTIMATOR_FIXED}, **kwargs
        )
        self._estimator: HandEstimator | None = None
        self._matcher = Matcher(1, 0.0)

    @property
    def settings(self) -> HandNodeConfig:
        """The parameters as they are now."""
        return self.parameters.get(HandNodeConfig)

    def setup(self) -> None:
        """Load the bundle, create the publishers."""
        expect(bool(self.settings.bundle), "bundle", "the folder of a bundle", "an empty parameter")
        self._estimator = HandEstimator.load(
            os.path.expanduser(self.settings.bundle), self.parameters.get(EngineConfig)
        )
        self._joints = self.publisher(HandJoints, "~/joints")
        self._pose_array = self.publisher(PoseArray, "~/poses")
        self._markers = self.publisher(MarkerArray, "~/markers")
        self._overlay = self.publisher(Image, "~/overlay", depth=1)
        self.backend = self._estimator.backend.name
        self.hardware_id = self._estimator.bundle.name

    def teardown(self) -> None:
        """Let go of the network."""
        self._estimator = None

    @property
    def image_depth(self) -> int:
        """Where every depth map waits for its detections, none may be overwritten; otherwise the newest wins."""
        return self.settings.detection_queue if self.settings.window_source == "detections" else 1

    def start(self) -> None:
        """Subscribe to detections where they are used."""
        if self.settings.window_source == "detections":
            self._detections = self.subscription(Detection2DArray, "detections_2d", self._on_detections)

    def stop(self) -> None:
        """Nothing stays behind in RViz."""
        self._markers.publish(MarkerArray(markers=[Marker(action=Marker.DELETEALL)]))

    def reset(self) -> None:
        """Forget the depth maps that wait."""
        self._matcher = Matcher(self.settings.detection_queue, self.settings.detection_tolerance)

    def report(self) -> dict[str, str]:
        """For the diagnostics."""
        self.statistics.unmatched = self._matcher.unmatched
        return {"window source": self.settings.window_source}

    def pixels(self, msg: Image | CompressedImage) -> NDArray[Any]:
        """Depth in metres."""
        return depth_to_metres(msg) if isinstance(msg, Image) else compressed_depth_to_metres(msg)

    def take(self, msg: Image | CompressedImage) -> None:
        """Process the depth map, or keep it until its detections come."""
        if self.settings.window_source == "nearest":
            self.run(msg)
        elif pair := self._matcher.add_image(msg):
            self.run(*pair)

    def _on_detections(self, msg: Detection2DArray) -> None:
        self._matcher.tolerance = self.settings.detection_tolerance
        if pair := self._matcher.add_detections(msg):
            self.run(*pair)

    def process(self, frame: Frame, detections: Detection2DArray | None) -> bool:
        """Find the hand, estimate, publish. Without a hand the message says so; an old pose is never repeated."""
        estimator = self._estimator
        assert estimator is not None
        estimator.config, estimator.search = self.parameters.get(EngineConfig), self.parameters.get(SearchConfig)
        estimator.refine, estimator.mirror = self.settings.refine, self.settings.mirror
        locator = None if self.settings.window_source == "nearest" else self._detected(detections)
        pose = estimator.estimate(frame.image, frame.camera, locator)
        self._publish(frame, pose)
        return pose is not None and pose.accepted

    def _detected(self, message: Detection2DArray | None) -> Detected:
        """The locator that takes the best detection."""
        assert self._estimator is not None
        detections = []
        for d in message.detections if message else ():
            scores: dict[str, float] = {}
            for result in d.results:
                name, score = result.hypothesis.class_id, result.hypothesis.score
                scores[name] = max(score, scores.get(name, score))
            centre = d.bbox.center.position
            detections.append(Detection(centre.x, centre.y, d.bbox.size_x, d.bbox.size_y, scores))
        wanted, least = self.settings.detection_class, self.settings.detection_min_score
        search = self.parameters.get(SearchConfig)
        return Detected(detections, wanted, least, search, self._estimator.bundle.hand.cube)

    def _publish(self, frame: Frame, pose: HandPose | None) -> None:
        assert self._estimator is not None
        header, hand, settings = frame.header, self._estimator.bundle.hand, self.settings
        accepted = pose if pose is not None and pose.accepted else None
        msg = HandJoints(
            header=header,
            name=hand.name,
            left=hand.left != settings.mirror,
            valid=accepted is not None,
            joint_names=list(hand.joints),
        )
        if accepted is not None:
            msg.positions = [point_msg(p) for p in accepted.joints]
            msg.deviations = accepted.spread.tolist()
            msg.joint_valid = [bool(d < settings.max_joint_error) for d in accepted.spread]
            msg.score = float(accepted.score)
        self._joints.publish(msg)
        joints = accepted.joints if accepted is not None else np.zeros((0, 3))
        self._pose_array.publish(
            PoseArray(header=header, poses=[Pose(position=point_msg(p), orientation=Quaternion(w=1.0)) for p in joints])
        )
        self._markers.publish(skeleton_markers(header, hand, accepted, settings.marker_lifetime))
        if settings.publish_tf and accepted is not None:
            if header.frame_id:
                prefix = settings.tf_prefix or f"{hand.name}/"
                self.transforms.sendTransform(
                    [_transform(header, prefix + n, p) for n, p in zip(hand.joints, accepted.joints, strict=True)]
                )
            else:
                self.warn(
                    "frame_id", "image.header.frame_id: expected the camera's optical frame, got none; no TF is sent"
                )
        if self._overlay.get_subscription_count():
            search = self.parameters.get(SearchConfig)
            self._overlay.publish(
                rgb_to_image(draw_hand(frame.image, frame.camera, hand, pose, search.nearest, search.farthest), header)
            )


def _transform(header: Header, child: str, position: Array) -> TransformStamped:
    stamped = TransformStamped(header=header, child_frame_id=child)
    x, y, z = (float(p) for p in position)
    stamped.transform.translation = Vector3(x=x, y=y, z=z)
    stamped.transform.rotation.w = 1.0
    return stamped


def main(args: list[str] | None = None) -> None:
    """Entry point of the executable."""
    run_node(HandPoseNode, "hand_pose_node", args)


if __name__ == "__main__":
    main()
