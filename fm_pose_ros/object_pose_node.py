"""The node object_pose_node: an image, a camera_info and a window in, 6D object poses out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo, VisionClass, VisionInfo
from visualization_msgs.msg import MarkerArray

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.types import Camera, ObjectPose, Window
from fm_pose_ros.conversions import (
    DetectedObject,
    detection3d_array,
    pose_stamped,
    projected_box_array,
    rgb_to_image,
    transform_stamped,
)
from fm_pose_ros.drawing import Markers, draw_overlay
from fm_pose_ros.matching import Matcher
from fm_pose_ros.msg import ProjectedBoxArray
from fm_pose_ros.node_base import Frame, PoseNodeBase, run_node
from fm_pose_ros.object_config import FIXED, ObjectNodeConfig
from fm_pose_ros.tracks import Tracks

ESTIMATOR_FIXED = ("backend", "precision", "threads")
STRAYS = 3  # so many detections in a row without their image are worth a warning


@dataclass
class Target:
    """One object class: its estimator, the tracks of its instances, the topic of its pose."""

    estimator: PoseEstimator
    tracks: Tracks
    pose_publisher: Any
    detected: bool = False  # whether any 2D detection has been of this class


@dataclass
class Answer:
    """What the node says about one image. refused: windows whose estimate a gate turned down."""

    objects: list[DetectedObject] = field(default_factory=list)
    refused: list[tuple[Window, ObjectPose]] = field(default_factory=list)


class ObjectPoseNode(PoseNodeBase):
    """6D poses of known objects."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("object_pose_node", {ObjectNodeConfig: FIXED, EstimatorConfig: ESTIMATOR_FIXED}, **kwargs)
        self._targets: list[Target] = []
        self._markers = Markers()
        self._matcher = Matcher(1, 0.0)
        self._latest: Detection2DArray | None = None  # what came while objects are tracked, for the next image

    @property
    def settings(self) -> ObjectNodeConfig:
        """The parameters as they are now."""
        return self.parameters.get(ObjectNodeConfig)

    def setup(self) -> None:
        """Load the bundles, create the publishers."""
        folders = [folder for folder in self.settings.bundle.split(os.pathsep) if folder]
        expect(bool(folders), "bundle", "the folder of a bundle", "an empty parameter")
        config = self.parameters.get(EstimatorConfig)
        estimators = [PoseEstimator.load(os.path.expanduser(folder), config) for folder in folders]
        names = [estimator.bundle.name for estimator in estimators]
        expect(len(set(names)) == len(names), "bundle", "objects with different names", names)
        expect(
            len(names) == 1 or not self.settings.child_frame,
            "child_frame",
            "nothing with several objects",
            self.settings.child_frame,
        )
        for estimator in estimators:
            topic = "~/pose" if len(names) == 1 else f"~/{estimator.bundle.name}/pose"
            tracks = Tracks(estimator.bundle.diameter, estimator.bundle.symmetries)
            self._targets.append(Target(estimator, tracks, self.publisher(PoseStamped, topic)))
        self._detections = self.publisher(Detection3DArray, "~/detections")
        self._boxes = self.publisher(ProjectedBoxArray, "~/boxes")
        self._marker_array = self.publisher(MarkerArray, "~/markers")
        self._overlay = self.publisher(Image, "~/overlay", depth=1)
        self._vision_info = self.publisher(VisionInfo, "~/vision_info", depth=1, latched=True)
        self._label_info = self.publisher(LabelInfo, "~/label_info", depth=1, latched=True)
        self.backend = estimators[0].backend.name
        self.hardware_id = ", ".join(names)

    def teardown(self) -> None:
        """Let go of the networks."""
        self._targets.clear()

    @property
    def image_depth(self) -> int:
        """Where every image waits for its detections, none may be overwritten; otherwise the newest wins."""
        return self.settings.detection_queue if self.settings.window_source == "detections" else 1

    def start(self) -> None:
        """Subscribe to detections where they are used; tell the class names."""
        if self._uses_detections:
            self._detections_2d = self.subscription(Detection2DArray, "detections_2d", self._on_detections)
        labels, info = LabelInfo(), VisionInfo()
        labels.header.stamp = info.header.stamp = self.get_clock().now().to_msg()
        bundles = [target.estimator.bundle for target in self._targets]
        labels.class_map = [VisionClass(class_id=bundle.object_id, class_name=bundle.name) for bundle in bundles]
        labels.threshold = self.parameters.get(EstimatorConfig).min_score
        info.method = "fm_pose"
        info.database_location = os.pathsep.join(str(bundle.path) for bundle in bundles)
        self._label_info.publish(labels)
        self._vision_info.publish(info)

    def stop(self) -> None:
        """Nothing stays behind in RViz."""
        self._marker_array.publish(self._markers.clear())

    def reset(self) -> None:
        """Forget all tracks and all images that wait."""
        for target in self._targets:
            target.tracks.reset()
        self._matcher = Matcher(self.settings.detection_queue, self.settings.detection_tolerance)
        self._latest = None

    def report(self) -> dict[str, str]:
        """Tracking state, for the diagnostics."""
        self.statistics.unmatched = self._matcher.unmatched
        live = [
            f"{target.estimator.bundle.name}_{track.number}" for target in self._targets for track in target.tracks.live
        ]
        return {"window source": self.settings.window_source, "tracks": ", ".join(live) or "none"}

    # Where an image goes

    @property
    def _uses_detections(self) -> bool:
        source = (
            self.settings.initial_window if self.settings.window_source == "tracking" else self.settings.window_source
        )
        return source == "detections"

    def _waits_for_detections(self) -> bool:
        tracked = self.settings.window_source == "tracking" and any(target.tracks.live for target in self._targets)
        return self._uses_detections and not tracked

    def take(self, msg: Image | CompressedImage) -> None:
        """Process the image, or keep it until its detections come. What is tracked does not wait for a detector."""
        latest, self._latest = self._latest, None
        if not self._waits_for_detections():
            self.run(msg, latest)
        elif pair := self._matcher.add_image(msg):
            self.run(*pair)

    def _on_detections(self, msg: Detection2DArray) -> None:
        if not self._waits_for_detections():
            self._latest = msg
            return
        self._matcher.tolerance = self.settings.detection_tolerance
        if pair := self._matcher.add_detections(msg):
            self.run(*pair)
        elif self._matcher.strays >= STRAYS:
            self.warn(
                "detections_2d.header.stamp",
                f"detections_2d.header.stamp: expected the stamp of an image within {self.settings.detection_tolerance} s, got the nearest "
                f"{self._matcher.offset:+.3f} s away; do both use one clock, and is detection_queue long enough?",
            )

    # One frame

    def process(self, frame: Frame, detections: Detection2DArray | None) -> bool:
        """Windows, estimates, tracks, messages."""
        answer = Answer()
        for target in self._targets:
            target.estimator.config = self.parameters.get(EstimatorConfig)
            estimates = self._estimate(target, frame, detections)
            answer.objects += self._follow(target, [pose for _, pose in estimates], frame.stamp)
            answer.refused += [(window, pose) for window, pose in estimates if not pose.accepted]
        self._publish(frame, answer)
        return bool(answer.objects)

    def _estimate(
        self, target: Target, frame: Frame, detections: Detection2DArray | None
    ) -> list[tuple[Window, ObjectPose]]:
        """All windows with their estimates. What cannot be estimated is a refusal: tracks age, other objects don't
        suffer."""
        try:
            windows = self._windows(target, frame.camera, detections)
            return list(zip(windows, target.estimator.estimate_many(frame.image, frame.camera, windows), strict=True))
        except InputError as error:
            self.warn(str(error).split(":")[0], str(error))
            return []

    def _windows(self, target: Target, camera: Camera, detections: Detection2DArray | None) -> list[Window]:
        windows = self._tracked_windows(target, camera) if self.settings.window_source == "tracking" else []
        if len(windows) < self.settings.max_instances:
            windows += self._initial_windows(target, camera, detections)
        return windows

    def _tracked_windows(self, target: Target, camera: Camera) -> list[Window]:
        """Around the last poses. An object whose centre has left the image is lost."""
        windows = []
        for track in tuple(target.tracks.live):
            window = _window_in_image(target.estimator, track.T_camera_object, camera)
            if window is None:
                target.tracks.drop(track)
            else:
                windows.append(window)
        return windows

    def _initial_windows(self, target: Target, camera: Camera, detections: Detection2DArray | None) -> list[Window]:
        if detections is not None:
            return self._detected_windows(target, detections)
        if self._uses_detections:
            return []
        u, v = self.settings.window_u, self.settings.window_v
        return [Window((camera.width - 1) / 2 if u < 0 else u, (camera.height - 1) / 2 if v < 0 else v)]

    def _detected_windows(self, target: Target, detections: Detection2DArray) -> list[Window]:
        wanted = self.settings.detection_class or target.estimator.bundle.name
        scored = []
        for detection in detections.detections:
            scores = [r.hypothesis.score for r in detection.results if wanted in ("*", r.hypothesis.class_id)]
            if scores and max(scores) >= self.settings.detection_min_score:
                center = detection.bbox.center.position
                scored.append((max(scores), Window(center.x, center.y)))
        target.detected |= bool(scored)
        if detections.detections and not target.detected:
            classes = sorted({r.hypothesis.class_id for detection in detections.detections for r in detection.results})
            self.warn("detection_class", f"detection_class: expected detections of {wanted!r}, got {classes} so far")
        scored.sort(key=lambda item: -item[0])
        return [window for _, window in scored[: self.settings.max_instances]]

    def _follow(self, target: Target, poses: Sequence[ObjectPose], stamp: float) -> list[DetectedObject]:
        limits = {
            "instances": self.settings.max_instances,
            "lost_after": self.settings.lost_after,
            "smoothing": self.settings.smoothing,
        }
        bundle = target.estimator.bundle
        objects = []
        for track, pose in target.tracks.update(poses, stamp, **limits):
            frame = (self.settings.child_frame or bundle.name) + (f"_{track.slot + 1}" if track.slot else "")
            objects.append(DetectedObject(bundle, track.number, frame, pose, track.T_smoothed))
        return objects

    def _publish(self, frame: Frame, answer: Answer) -> None:
        header, objects, settings = frame.header, answer.objects, self.settings
        self._detections.publish(detection3d_array(header, objects))
        self._boxes.publish(projected_box_array(header, objects))
        for target in self._targets:
            best = next((found for found in objects if found.bundle is target.estimator.bundle), None)
            if best is not None:
                target.pose_publisher.publish(pose_stamped(header, best))
        if settings.publish_tf and objects and header.frame_id:
            self.transforms.sendTransform([transform_stamped(header, found) for found in objects])
        elif settings.publish_tf and objects:
            self.warn("frame_id", "image.header.frame_id: expected the camera's optical frame, got none; no TF is sent")
        self._marker_array.publish(self._markers.update(header, objects, settings.marker, settings.marker_lifetime))
        if self._overlay.get_subscription_count():
            self._overlay.publish(
                rgb_to_image(draw_overlay(frame.image, frame.camera, objects, answer.refused), header)
            )


def _window_in_image(estimator: PoseEstimator, T_camera_object: Array, camera: Camera) -> Window | None:
    try:
        window = estimator.window_of(T_camera_object, camera)
    except InputError:  # behind the camera
        return None
    inside = -0.5 <= window.u <= camera.width - 0.5 and -0.5 <= window.v <= camera.height - 0.5
    return window if inside else None


def main(args: list[str] | None = None) -> None:
    """Entry point of the executable."""
    run_node(ObjectPoseNode, "object_pose_node", args)


if __name__ == "__main__":
    main()
