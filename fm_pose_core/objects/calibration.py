"""What the deviations that a network tells are worth: measured when a bundle is written, on real images that train
nothing. The network is asked once about each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.geometry import Array, apply, log_so3
from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.pnp import inverse_spd
from fm_pose_core.objects.refine import Solution
from fm_pose_core.objects.solver import Sight, solve_best
from fm_pose_core.objects.validation import Case, KnownObject, cases_of, nearest_truth, seen

log = logging.getLogger(__name__)
CHI2_MEDIAN = {1: 0.455, 6: 5.348}  # of the χ² distribution, by its degrees of freedom


@dataclass(frozen=True)
class Asked:
    """Instances, and what the network says of each (solver.see_again), with as many views as the estimator's
    default."""

    cases: list[Case]
    sights: list[tuple[Sight, ...]]

    @classmethod
    def about(cls, instances: Sequence[Instance], network: Fused, objects: Sequence[KnownObject]) -> "Asked":
        """instances: real ones that the network was not trained with. objects: all of them."""
        views = EstimatorConfig().views
        cases = cases_of([KnownObject(x.model, replace(x.solver, views=views)) for x in objects], instances)
        return cls(cases, seen(network, cases))

    def changed(self, **solver: Any) -> "Asked":
        """The same answers, for solvers with other fields."""
        sights = [tuple(replace(x, solver=replace(x.solver, **solver)) for x in own) for own in self.sights]
        return Asked(self.cases, sights)

    def solved(self, scale: float) -> list[tuple[Case, Solution]]:
        """The instances for which there is a pose, as the estimator finds it before any refinement. scale: of the
        network's spread."""
        found = zip(self.cases, solve_best(self.sights, scale), strict=True)
        return [(case, x) for case, x in found if x.accepted]

    def distance_scale(self) -> float:
        """The factor on the deviation of the distances that the network tells, for which it fits their errors; 0 for a
        network that tells none, and without instances."""
        squares = []
        for case, own in zip(self.cases, self.sights, strict=True):
            told = own[0].answer.distance
            if told is not None:
                true = _distance(case, case.instance.T_camera_object)
                squares.append(float(np.square(np.log(told[0] / true) / told[1])))
        return fitting_scale(squares, freedom=1) if squares else 0.0

    def distance_error(self, scale: float) -> float:
        """How wrong the poses' distances are in the mean (the logarithm's error; a mean, since few objects are hidden);
        infinite without poses. scale: of the network's spread."""
        ratios = [
            _distance(case, x.T_camera_object) / _distance(case, case.instance.T_camera_object)
            for case, x in self.solved(scale)
        ]
        return float(np.mean(np.abs(np.log(ratios)))) if ratios else float("inf")

    def spread_scale(self) -> float:
        """The factor on the network's spread for which the poses' covariance fits their errors: the median of eᵀC⁻¹e is
        that of a χ² distribution with 6 degrees of freedom; from 0.1 to 30. Without instances, or where none has a
        pose, it is 1, with a warning: errors on training images say nothing."""
        excess = {scale: self._excess(scale) for scale in np.geomspace(0.1, 30.0, 60)} if self.cases else {}
        best = min(excess, key=lambda scale: excess[scale], default=1.0)
        if not np.isfinite(excess.get(best, np.inf)):
            why = "the network has no pose for any validation frame" if self.cases else "no validation frames"
            log.warning("%s: the covariance is not calibrated (spread_scale 1)", why)
            return 1.0
        return float(best)

    def _excess(self, scale: float) -> float:
        """How far the median is off, as a logarithm; infinite without poses."""
        values = []
        for case, solution in self.solved(scale):
            e, information = _pose_error(solution.T_camera_object, case.truths), inverse_spd(solution.covariance)
            values += [e @ information @ e] if np.isfinite(information).all() else []
        return abs(float(np.log(np.median(values) / CHI2_MEDIAN[6]))) if values else float("inf")


@dataclass(frozen=True)
class Calibration:
    """distance_scale, spread_scale: as Asked has them. widen: see ObjectSolver. asked: with solvers that are so."""

    distance_scale: float
    spread_scale: float
    widen: bool
    asked: Asked


def calibrate(asked: Asked) -> Calibration:
    """Corners are taken apart if distances are nearer to the truth then."""
    of_distance = asked.distance_scale()
    found = []
    for widen in (False, True) if asked.cases else (False,):
        one = asked.changed(distance_scale=of_distance or 1.0, widen=widen)
        found.append(Calibration(of_distance, one.spread_scale(), widen, one))
    return min(found, key=lambda x: x.asked.distance_error(x.spread_scale))


def fitting_scale(squares: Sequence[float], freedom: int = 6) -> float:
    """The factor on deviations that are these squared errors apart from the truth, for which their median is that of a
    χ² distribution with so many degrees of freedom; from 0.1 to 30."""
    return float(np.clip(np.sqrt(np.median(squares) / CHI2_MEDIAN[freedom]), 0.1, 30.0)) if squares else 1.0


def _distance(case: Case, T_camera_object: Array) -> float:
    """Of the centre of the object's box, metres."""
    return float(np.linalg.norm(apply(T_camera_object, case.known.solver.box_corners.mean(0)[None])))


def _pose_error(T: Array, truths: Sequence[Array]) -> Array:
    """(6,) metres and radians, as the covariance is, to the nearest true pose."""
    truth = nearest_truth(T, truths)
    return np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])
