"""The node object_pose_node: an image, a camera_info and a window in, 6D object poses out."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo, VisionClass, VisionInfo
from visualization_msgs.msg import MarkerArray

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import InputError, expect
from fm_pose_core.objects.bundle import BundledObject
from fm_pose_core.objects.detection.detector import Found
from fm_pose_core.objects.estimator import PoseEstimator, expect_refinable
from fm_pose_core.objects.locate import Detected, Fixed, InTurn, Locator, Own, Tracked
from fm_pose_core.types import Camera, Detection, ObjectPose, Window
from fm_pose_ros.bundle_folders import bundle_folders
from fm_pose_ros.camera_input import COLOUR, NO_FRAME, CameraInput, Frame, ImageMessage
from fm_pose_ros.conversions import (
    DetectedObject,
    detection3d_array,
    detections_from_msg,
    masks_image,
    pose_stamped,
    projected_box_array,
    rgb_to_image,
    transform_stamped,
)
from fm_pose_ros.detection_input import DetectionInput
from fm_pose_ros.diagnostics import Diagnostics
from fm_pose_ros.drawing import Markers, draw_overlay
from fm_pose_ros.lifecycle import PoseNode, run_nodes
from fm_pose_ros.msg import ProjectedBoxArray
from fm_pose_ros.object_config import PARAMETERS, ObjectNodeConfig
from fm_pose_ros.tracks import Tracks

Estimate = tuple[Window, ObjectPose]


@dataclass
class Target:
    """One object: the estimator of its bundle, the tracks of its instances, the topic of its pose."""

    object: BundledObject
    estimator: PoseEstimator
    tracks: Tracks
    pose_publisher: Any
    detected: bool = False  # whether any 2D detection has been of this class


@dataclass
class Answer:
    """What the node says about one image. refused: windows whose estimate a gate turned down."""

    objects: list[DetectedObject] = field(default_factory=list)
    refused: list[Estimate] = field(default_factory=list)


class ObjectPoseNode(PoseNode):
    """6D poses of known objects."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("object_pose_node", PARAMETERS, **kwargs)
        self._targets: list[Target] = []
        self._markers = Markers()
        self._latest: Detection2DArray | None = None  # what came while objects are tracked, for the next image
        self._searched: dict[PoseEstimator, float] = {}  # when its detector looked at an image; seconds
        self.diagnostics = Diagnostics(self, self._report)
        self.camera_input = CameraInput(
            self, self.diagnostics, COLOUR, take=self._take, process=self._process, reset=self._reset
        )
        self.detection_input = DetectionInput(self, self.diagnostics, lambda: self.settings, self.camera_input.run)

    @property
    def settings(self) -> ObjectNodeConfig:
        """The parameters as they are now."""
        return self.parameters.get(ObjectNodeConfig)

    def setup(self) -> None:
        """Load the bundles, create the publishers."""
        known = self._load()
        for estimator, thing in known:
            topic = "~/pose" if len(known) == 1 else f"~/{thing.name}/pose"
            tracks = Tracks(thing.diameter, thing.symmetries)
            self._targets.append(Target(thing, estimator, tracks, self.publisher(PoseStamped, topic)))
        self._detections = self.publisher(Detection3DArray, "~/detections")
        self._boxes = self.publisher(ProjectedBoxArray, "~/boxes")
        self._marker_array = self.publisher(MarkerArray, "~/markers")
        self._overlay = self.publisher(Image, "~/overlay", depth=1)
        self._masks = self.publisher(Image, "~/masks", depth=1)
        self._vision_info = self.publisher(VisionInfo, "~/vision_info", depth=1, latched=True)
        self._label_info = self.publisher(LabelInfo, "~/label_info", depth=1, latched=True)
        self.backend = known[0][0].backend.name
        self.hardware_id = ", ".join(thing.name for _, thing in known)

    def _load(self) -> list[tuple[PoseEstimator, BundledObject]]:
        """All objects, each with the estimator of its bundle."""
        folders = bundle_folders(self.settings.bundle)
        expect(bool(folders), "bundle", "the folder or name of a bundle", "an empty parameter")
        config, child_frame = self.parameters.get(EstimatorConfig), self.settings.child_frame
        estimators = [PoseEstimator.load(folder, config) for folder in folders]
        known = [(estimator, thing) for estimator in estimators for thing in estimator.bundle.objects]
        names = [thing.name for _, thing in known]
        expect(len(set(names)) == len(names), "bundle", "objects with different names", names)
        expect(len(names) == 1 or not child_frame, "child_frame", "nothing with several objects", child_frame)
        for _, thing in known:
            _expect_markers(self.settings.marker, thing)
        for estimator in estimators:
            source, initial = self.settings.sources(estimator.can_detect)
            if source == "own" or (source == "tracking" and initial == "own"):
                estimator.detector  # noqa: B018 - loads it now, or says why not
        return known

    def check(self, config: Any) -> None:
        """Refinements and markers need parts of a bundle that not every one has."""
        for target in self._targets:
            if isinstance(config, EstimatorConfig):
                expect_refinable(target.estimator.bundle, config)
            elif isinstance(config, ObjectNodeConfig):
                _expect_markers(config.marker, target.object)

    def start(self) -> None:
        """Subscribe to the camera, and to detections where they are used; tell the class names."""
        waits = any(self._sources(estimator)[0] == "detections" for estimator in self._estimators)
        # Where every image waits for its detections, none may be overwritten; otherwise the newest wins.
        self.camera_input.open(self.settings.detection_queue if waits else 1)
        if self._uses_detections:
            self.detection_input.open(self._on_detections)
        labels, info = LabelInfo(), VisionInfo()
        labels.header.stamp = info.header.stamp = self.get_clock().now().to_msg()
        things = [target.object for target in self._targets]
        labels.class_map = [VisionClass(class_id=thing.object_id, class_name=thing.name) for thing in things]
        labels.threshold = self.parameters.get(EstimatorConfig).min_score
        info.method = "fm_pose"
        info.database_location = os.pathsep.join(str(estimator.bundle.path) for estimator in self._estimators)
        self._label_info.publish(labels)
        self._vision_info.publish(info)

    def stop(self) -> None:
        """Nothing stays behind in RViz."""
        self._marker_array.publish(self._markers.clear())

    def teardown(self) -> None:
        """Let go of the networks."""
        self._targets.clear()
        self._searched.clear()

    @property
    def _estimators(self) -> list[PoseEstimator]:
        """One for each bundle."""
        return list(dict.fromkeys(target.estimator for target in self._targets))

    def _reset(self) -> None:
        """Forget all tracks and all images that wait."""
        for target in self._targets:
            target.tracks.reset()
        self.detection_input.reset()
        self._latest = None
        self._searched.clear()

    def _report(self) -> dict[str, str]:
        """Tracking state, for the diagnostics."""
        live = [f"{target.object.name}_{track.number}" for target in self._targets for track in target.tracks.live]
        sources = dict.fromkeys(self._sources(estimator)[0] for estimator in self._estimators)
        return {"window source": ", ".join(sources), "tracks": ", ".join(live) or "none"}

    # Where an image goes

    def _sources(self, estimator: PoseEstimator) -> tuple[str, str]:
        return self.settings.sources(estimator.can_detect)

    def _begins_with(self, estimator: PoseEstimator) -> str:
        """Where windows come from that are no track's."""
        source, initial = self._sources(estimator)
        return initial if source == "tracking" else source

    @property
    def _uses_detections(self) -> bool:
        return any(self._begins_with(estimator) == "detections" for estimator in self._estimators)

    def _waits_for_detections(self) -> bool:
        tracked = any(
            self._sources(target.estimator)[0] == "tracking" and target.tracks.live for target in self._targets
        )
        return self._uses_detections and not tracked

    def _take(self, msg: ImageMessage) -> None:
        """Process the image, or keep it until its detections come. What is tracked does not wait for a detector."""
        latest, self._latest = self._latest, None
        if self._waits_for_detections():
            self.detection_input.add_image(msg)
        else:
            self.camera_input.run(msg, latest)

    def _on_detections(self, msg: Detection2DArray) -> None:
        if self._waits_for_detections():
            self.detection_input.add(msg)
        else:
            self._latest = msg

    # One frame: convert, call, publish

    def _process(self, frame: Frame, msg: Detection2DArray | None) -> bool:
        """Windows, estimates, tracks, messages."""
        detections = detections_from_msg(msg, self.diagnostics.warn_of) if msg is not None else []
        answer = Answer()
        for estimator in self._estimators:
            targets = [target for target in self._targets if target.estimator is estimator]
            estimates = self._estimate(estimator, targets, frame, detections)
            for target in targets:
                own = [pose for window, pose in estimates if window.object == target.object.name]
                answer.objects += self._follow(target, own, frame.stamp)
            answer.refused += [(window, pose) for window, pose in estimates if not pose.accepted]
        self._publish(frame, answer)
        return bool(answer.objects)

    def _estimate(
        self, estimator: PoseEstimator, targets: Sequence[Target], frame: Frame, detections: Sequence[Detection]
    ) -> list[Estimate]:
        """All windows of one bundle with their estimates. What cannot be estimated is a fault, and a refusal: tracks
        age, the other bundles don't suffer."""
        estimator.config = self.parameters.get(EstimatorConfig)
        find = self._finder(estimator, targets, frame)
        windows = [window for target in targets for window in self._windows(target, frame, detections, find)]
        try:
            return list(zip(windows, estimator.estimate_many(frame.image, frame.camera, windows), strict=True))
        except InputError as error:
            self.diagnostics.fault_of(error)
            return []

    def _finder(
        self, estimator: PoseEstimator, targets: Sequence[Target], frame: Frame
    ) -> Callable[[], Sequence[Found]]:
        """What the bundle's detector finds in an image, at which it looks once, when it is asked. While objects are
        tracked, it rests for search_interval."""

        @cache
        def find() -> Sequence[Found]:
            tracked = self._sources(estimator)[0] == "tracking" and any(target.tracks.live for target in targets)
            since = frame.stamp - self._searched.get(estimator, -inf)
            if tracked and 0.0 < since < self.settings.search_interval:
                return []
            self._searched[estimator] = frame.stamp
            return estimator.detector.detect(frame.image, frame.camera, estimator.config.min_detection)

        return find

    def _windows(
        self, target: Target, frame: Frame, detections: Sequence[Detection], find: Callable[[], Sequence[Found]]
    ) -> list[Window]:
        try:
            return self._locator(target, frame.camera, detections, find).locate(frame.image, frame.camera)
        except InputError as error:
            self.diagnostics.fault_of(error)
            return []

    def _locator(
        self, target: Target, camera: Camera, detections: Sequence[Detection], find: Callable[[], Sequence[Found]]
    ) -> Locator:
        settings, name, begins = self.settings, target.object.name, self._begins_with(target.estimator)
        initial: Locator = Fixed(name, settings.window_u, settings.window_v)
        if begins == "own":
            initial = Own(name, find, settings.max_instances)
        elif begins == "detections":
            wanted, least = settings.detection_class or name, settings.detection_min_score
            initial = Detected(name, detections, wanted, least, settings.max_instances)
            self._warn_of_classes(target, initial)
        if self._sources(target.estimator)[0] != "tracking":
            return initial
        return InTurn(self._tracked(target, camera), initial, settings.max_instances)

    def _tracked(self, target: Target, camera: Camera) -> Tracked:
        """Around the last poses. What has left the image is no longer tracked."""
        name, center, live = target.object.name, target.object.center, tuple(target.tracks.live)
        around = Tracked(name, center, [track.T_camera_object for track in live]).around(camera)
        for track, window in zip(live, around, strict=True):
            if window is None:
                target.tracks.drop(track)
        return Tracked(name, center, [track.T_camera_object for track in target.tracks.live])

    def _warn_of_classes(self, target: Target, locator: Detected) -> None:
        target.detected |= bool(locator.taken())
        if locator.detections and not target.detected:
            came = sorted({name for detection in locator.detections for name in detection.scores})
            text = f"detection_class: expected detections of {locator.wanted!r}, got {came} so far"
            self.diagnostics.warn("detection_class", text)

    def _follow(self, target: Target, poses: Sequence[ObjectPose], stamp: float) -> list[DetectedObject]:
        s, thing = self.settings, target.object
        objects = []
        accelerations = (s.acceleration, s.angular_acceleration) if s.filter else None
        for track, pose in target.tracks.update(
            poses, stamp, instances=s.max_instances, lost_after=s.lost_after, accelerations=accelerations
        ):
            name = s.tf_prefix + (s.child_frame or thing.name)
            frame = name + (f"_{track.slot + 1}" if track.slot else "")
            objects.append(DetectedObject(thing, track.number, frame, pose, track.T_filtered))
        return objects

    def _publish(self, frame: Frame, answer: Answer) -> None:
        header, objects, settings = frame.header, answer.objects, self.settings
        self._detections.publish(detection3d_array(header, objects))
        self._boxes.publish(projected_box_array(header, objects))
        for target in self._targets:
            best = next((found for found in objects if found.object is target.object), None)
            if best is not None:
                target.pose_publisher.publish(pose_stamped(header, best))
        if settings.publish_tf and objects and header.frame_id:
            assert self.transforms is not None
            self.transforms.send([transform_stamped(header, found) for found in objects])
        elif settings.publish_tf and objects:
            self.diagnostics.warn("frame_id", NO_FRAME)
        if self._marker_array.get_subscription_count():
            markers = self._markers.update(header, objects, settings.marker, settings.marker_lifetime)
            self._marker_array.publish(markers)
        if self._overlay.get_subscription_count():
            canvas = draw_overlay(frame.image, frame.camera, objects, answer.refused)
            self._overlay.publish(rgb_to_image(canvas, header))
        if self._masks.get_subscription_count():
            self._masks.publish(masks_image(header, frame.camera, [found.pose for found in objects]))


def _expect_markers(style: str, thing: BundledObject) -> None:
    needs = style in ("mesh", "both")
    expect(not needs or thing.mesh_path is not None, "marker", f"box, since {thing.name} has no mesh", style)


def main(args: list[str] | None = None) -> None:
    """Entry point of the executable."""
    run_nodes([ObjectPoseNode], "object_pose_node", args)


if __name__ == "__main__":
    main()
