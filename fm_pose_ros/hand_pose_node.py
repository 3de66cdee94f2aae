"""The node hand_pose_node: a depth map and a camera_info in, named 3D joints of the hand out."""

import math
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion, TransformStamped, Vector3
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray
from visualization_msgs.msg import Marker, MarkerArray

from fm_pose_core.config import HandEstimatorConfig
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.bundle import HandEntry
from fm_pose_core.hands.estimator import HandEstimator, HandPose
from fm_pose_core.hands.locate import Detected, Locator, Search, SearchConfig, Tracked
from fm_pose_ros.bundle_folders import bundle_folders
from fm_pose_ros.camera_input import DEPTH, NO_FRAME, CameraInput, Frame, ImageMessage
from fm_pose_ros.conversions import detections_from_msg, point_msg, rgb_to_image
from fm_pose_ros.detection_input import DetectionInput
from fm_pose_ros.diagnostics import Diagnostics
from fm_pose_ros.hand_config import PARAMETERS, HandNodeConfig
from fm_pose_ros.hand_drawing import draw_hand, skeleton_markers
from fm_pose_ros.lifecycle import PoseNode, run_nodes
from fm_pose_ros.msg import HandJoints

RECENT = 0.5  # seconds: where a hand was longer ago says nothing


class HandPoseNode(PoseNode):
    """3D joints of the nearest hand."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("hand_pose_node", PARAMETERS, **kwargs)
        self._estimator: HandEstimator | None = None
        self._last: tuple[float, Array] | None = None  # when and where the hand was last: the mean of its joints
        self.diagnostics = Diagnostics(self, self._report)
        self.camera_input = CameraInput(
            self, self.diagnostics, DEPTH, take=self._take, process=self._process, reset=self._reset
        )
        self.detection_input = DetectionInput(self, self.diagnostics, lambda: self.settings, self.camera_input.run)

    @property
    def settings(self) -> HandNodeConfig:
        """The parameters as they are now."""
        return self.parameters.get(HandNodeConfig)

    def setup(self) -> None:
        """Load the bundle, create the publishers."""
        folders = bundle_folders(self.settings.bundle)
        expect(len(folders) == 1, "bundle", "the folder or name of one bundle", repr(self.settings.bundle))
        search = self.parameters.get(SearchConfig)
        self._estimator = HandEstimator.load(folders[0], self.parameters.get(HandEstimatorConfig), search)
        self._joints = self.publisher(HandJoints, "~/joints")
        self._pose_array = self.publisher(PoseArray, "~/poses")
        self._markers = self.publisher(MarkerArray, "~/markers")
        self._overlay = self.publisher(Image, "~/overlay", depth=1)
        self.backend = self._estimator.backend.name
        self.hardware_id = self._estimator.bundle.name

    def start(self) -> None:
        """Subscribe to the camera, and to detections where they are used."""
        waits = self.settings.window_source == "detections"
        # Where every depth map waits for its detections, none may be overwritten; otherwise the newest wins.
        self.camera_input.open(self.settings.detection_queue if waits else 1)
        if waits:
            self.detection_input.open()

    def stop(self) -> None:
        """Nothing stays behind in RViz."""
        self._markers.publish(MarkerArray(markers=[Marker(action=Marker.DELETEALL)]))

    def teardown(self) -> None:
        """Let go of the network."""
        self._estimator = None

    def _reset(self) -> None:
        """Forget the depth maps that wait, and the hand."""
        self._last = None
        self.detection_input.reset()

    def _report(self) -> dict[str, str]:
        """For the diagnostics."""
        return {"window source": self.settings.window_source}

    # One frame: convert, call, publish

    def _take(self, msg: ImageMessage) -> None:
        """Process the depth map, or keep it until its detections come."""
        if self.settings.window_source == "detections":
            self.detection_input.add_image(msg)
        else:
            self.camera_input.run(msg)

    def _process(self, frame: Frame, detections: Detection2DArray | None) -> bool:
        """Find the hand, estimate, publish. Without a hand the message says so; an old pose is never repeated."""
        estimator = self._estimator
        assert estimator is not None
        estimator.config, estimator.search = self.parameters.get(HandEstimatorConfig), self.parameters.get(SearchConfig)
        estimator.refine, estimator.mirror = self.settings.refine, self.settings.mirror
        pose = estimator.estimate(frame.image, frame.camera, self._locator(frame, detections))
        tracked = self.settings.window_source == "tracking" and pose is not None and pose.accepted
        self._last = (frame.stamp, pose.joints.mean(0)) if pose is not None and tracked else None
        self._publish(frame, estimator.bundle.hand, pose)
        return pose is not None and pose.accepted

    def _locator(self, frame: Frame, msg: Detection2DArray | None) -> Locator:
        assert self._estimator is not None
        search, cube = self._estimator.search, self._estimator.bundle.hand.cube
        if msg is None:
            everywhere, (last, self._last) = Search(search, cube), (self._last, None)
            recent = last is not None and frame.stamp - last[0] < RECENT
            return Tracked(everywhere, last[1]) if last is not None and recent else everywhere
        wanted, least = self.settings.detection_class, self.settings.detection_min_score
        detections = detections_from_msg(msg, self.diagnostics.warn_of)
        return Detected(detections, wanted, least, search, cube)

    def _publish(self, frame: Frame, hand: HandEntry, pose: HandPose | None) -> None:
        header, settings = frame.header, self.settings
        accepted = pose if pose is not None and pose.accepted else None
        self._joints.publish(self._joints_msg(header, hand, accepted))
        joints = accepted.joints if accepted is not None else np.zeros((0, 3))
        poses = [Pose(position=point_msg(p), orientation=Quaternion(w=1.0)) for p in joints]
        self._pose_array.publish(PoseArray(header=header, poses=poses))
        self._markers.publish(skeleton_markers(header, hand, accepted, settings.marker_lifetime))
        if settings.publish_tf and accepted is not None:
            self._send_transforms(header, hand, accepted)
        if self._overlay.get_subscription_count():
            assert self._estimator is not None
            search = self._estimator.search
            canvas = draw_hand(frame.image, frame.camera, hand, pose, search.nearest, search.farthest)
            self._overlay.publish(rgb_to_image(canvas, header))

    def _joints_msg(self, header: Header, hand: HandEntry, accepted: HandPose | None) -> HandJoints:
        left = hand.left != self.settings.mirror
        msg = HandJoints(header=header, name=hand.name, left=left, joint_names=list(hand.joints))
        count = len(hand.joints)
        if accepted is None:
            msg.positions = [Point(x=math.nan, y=math.nan, z=math.nan)] * count
            msg.joint_valid, msg.deviations = [False] * count, [math.inf] * count
        else:
            msg.valid = True
            msg.positions = [point_msg(p) for p in accepted.joints]
            msg.deviations = accepted.spread.tolist()
            msg.joint_valid = [bool(d < self.settings.max_joint_error) for d in accepted.spread]
            msg.score = float(accepted.score)
        return msg

    def _send_transforms(self, header: Header, hand: HandEntry, accepted: HandPose) -> None:
        if not header.frame_id:
            self.diagnostics.warn("frame_id", NO_FRAME)
            return
        prefix = self.settings.tf_prefix or f"{hand.name}/"
        pairs = zip(hand.joints, accepted.joints, strict=True)
        assert self.transforms is not None
        self.transforms.send([_transform(header, prefix + name, p) for name, p in pairs])


def _transform(header: Header, child: str, position: Array) -> TransformStamped:
    stamped = TransformStamped(header=header, child_frame_id=child)
    x, y, z = (float(p) for p in position)
    stamped.transform.translation = Vector3(x=x, y=y, z=z)
    stamped.transform.rotation.w = 1.0
    return stamped


def main(args: list[str] | None = None) -> None:
    """Entry point of the executable."""
    run_nodes([HandPoseNode], "hand_pose_node", args)


if __name__ == "__main__":
    main()
