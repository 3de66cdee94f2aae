"""Which pose of this frame continues which of the last: stable ids, a filter, symmetric twins. Knows no rclpy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fm_pose_core.geometry import Array
from fm_pose_core.objects.filtering import PoseFilter
from fm_pose_core.objects.pnp import moved_origin
from fm_pose_core.types import ObjectPose

Accelerations = tuple[float, float]  # m/s², rad/s²
SAME = 0.5  # diameters: poses nearer to each other than this are of one object
REMEMBERED = 16  # tracks that ended, at most


@dataclass
class Track:
    """One object followed through the frames.

    number: counts all tracks of the object, never used twice. slot: smallest number that no other live track has.
    T_camera_object: (4, 4) of the last accepted estimate, metres. T_filtered: the same after the filter, if there is
    one. stamp: of that frame, seconds. refused: for each of the latest frames, whether it had no accepted pose.
    """

    number: int
    slot: int
    T_camera_object: Array
    T_filtered: Array
    stamp: float
    filter: PoseFilter | None = None
    refused: list[bool] = field(default_factory=list)


class Tracks:
    """The tracks of one object class. diameter: metres. symmetries: (4, 4) each, without the identity."""

    def __init__(self, diameter: float, symmetries: Sequence[Array] = ()) -> None:
        self.live: list[Track] = []
        self._diameter = diameter
        self._symmetries = tuple(symmetries)
        self._count = 0
        self._lost: list[Array] = []  # last poses of tracks that ended: a new one near one of them keeps its twin

    def reset(self) -> None:
        """Forget every track; numbers go on."""
        self.live.clear()
        self._lost.clear()

    def drop(self, track: Track) -> None:
        """End one track."""
        self.live.remove(track)
        self._lost = [*self._lost[1 - REMEMBERED :], track.T_camera_object]

    def update(
        self,
        poses: Sequence[ObjectPose],
        stamp: float,
        *,
        instances: int,
        lost_after: int,
        accelerations: Accelerations | None,
    ) -> list[tuple[Track, ObjectPose]]:
        """Continue, start and drop tracks with the accepted ones among `poses`, and return those with their tracks.

        stamp: seconds. instances: how many objects there can be; a single one keeps its track however far it moves, of
        several each keeps to within one diameter. Of poses or tracks that are on one object the better or continued one
        stays. lost_after: so many of twice as many frames without a pose end a track. accelerations: of the filter
        (PoseFilter), None for none.
        """
        reach = self._diameter if instances > 1 else np.inf
        waiting = list(self.live)
        result = []
        for pose in self._distinct(poses)[:instances]:
            near = _nearest([track.T_camera_object for track in waiting], pose.T_camera_object, reach)
            track = waiting.pop(near) if near is not None else None
            if track is None:
                track = self._new(pose.T_camera_object, stamp, reach)
            self._continue(track, pose, stamp, accelerations)
            result.append((track, pose))
        for track, _ in result:
            track.refused = [*track.refused, False][-2 * lost_after :]
        for track in waiting:
            track.refused = [*track.refused, True][-2 * lost_after :]
            merged = any(self._same(track.T_camera_object, pose.T_camera_object) for _, pose in result)
            if merged or sum(track.refused) >= lost_after:
                self.drop(track)
        return result

    def _distinct(self, poses: Sequence[ObjectPose]) -> list[ObjectPose]:
        """The accepted ones, best first, one for each object."""
        distinct: list[ObjectPose] = []
        for pose in sorted((p for p in poses if p.accepted), key=lambda p: -p.score):
            if not any(self._same(pose.T_camera_object, better.T_camera_object) for better in distinct):
                distinct.append(pose)
        return distinct

    def _same(self, T_a: Array, T_b: Array) -> bool:
        return float(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3])) < SAME * self._diameter

    def _new(self, T: Array, stamp: float, reach: float) -> Track:
        self._count += 1
        taken = {track.slot for track in self.live}
        slot = next(i for i in range(len(taken) + 1) if i not in taken)
        if (before := _nearest(self._lost, T, reach)) is not None:
            T = nearest_twin(T, self._lost.pop(before), self._symmetries)
        track = Track(self._count, slot, T, T, stamp)
        self.live.append(track)
        return track

    def _continue(self, track: Track, pose: ObjectPose, stamp: float, accelerations: Accelerations | None) -> None:
        T = nearest_twin(pose.T_camera_object, track.T_camera_object, self._symmetries)
        track.T_camera_object, track.stamp = T, stamp
        if accelerations is None:
            track.filter, track.T_filtered = None, T
            return
        if track.filter is None or track.filter.accelerations != accelerations:
            track.filter = PoseFilter(*accelerations)
        covariance = moved_origin(pose.covariance, T[:3, 3] - pose.T_camera_object[:3, 3])  # a twin's
        track.T_filtered = track.filter.update(T, covariance, stamp)


def nearest_twin(T: Array, T_last: Array, symmetries: Sequence[Array]) -> Array:
    """Of a pose (4, 4) and those that look the same by the object's symmetries, the one turned least from `T_last`."""
    twins = [T, *(T @ S for S in symmetries)]
    return max(twins, key=lambda twin: float(np.trace(T_last[:3, :3].T @ twin[:3, :3])))  # 1 + 2 cos of the turn


def _nearest(poses: Sequence[Array], T: Array, reach: float) -> int | None:
    """Number of the pose nearest to T, if one is within `reach` metres."""
    distances = [float(np.linalg.norm(pose[:3, 3] - T[:3, 3])) for pose in poses]
    nearest = min(range(len(poses)), key=distances.__getitem__, default=None)
    return nearest if nearest is not None and distances[nearest] <= reach else None
