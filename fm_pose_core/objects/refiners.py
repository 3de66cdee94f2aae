"""Which refiner makes an object's poses better, if any: tried out, on real images that train nothing, when a bundle is
written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fm_pose_core.learning.networks import Fused
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.calibration import fitting_scale
from fm_pose_core.objects.comparison.refiner import FeatureRefiner
from fm_pose_core.objects.edges import EdgeNoise, EdgeRefiner, measure_edges
from fm_pose_core.objects.metrics import PoseErrors
from fm_pose_core.objects.refine import InTurn, Refiner, Solution
from fm_pose_core.objects.samples import ObjectAssets
from fm_pose_core.objects.validation import Case, KnownObject, judged, nearest_truth
from fm_pose_core.rendering.raycaster import raycaster_installed


@dataclass(frozen=True)
class Choice:
    """noise: what the object's edges are worth. refined_by: see ObjectEntry."""

    noise: EdgeNoise
    refined_by: str


def choose_refiners(
    compare: Fused | None,
    objects: Sequence[tuple[KnownObject, ObjectAssets]],
    training: Sequence[Instance],
    solved: Sequence[tuple[Case, Solution]],
) -> tuple[list[Choice], float]:
    """For each object, and the factor on the spread of the learned refiner (1 without one). compare: its network, if
    there is one. solved: the poses to try them on."""
    noises, poses, learned = [], [], []
    for known, x in objects:
        own = [i for i in training if i.object_id == known.model.id]
        noises.append(measure_edges(x.mesh, x.corners, known.model.diameter, own))
        poses.append([(case, found) for case, found in solved if case.instance.object_id == known.model.id])
        if compare is not None and raycaster_installed():
            learned.append(FeatureRefiner(compare.infer, x.mesh, x.corners, x.crop, x.fill))
    learned_scale = fitting_scale([s for r, found in zip(learned, poses, strict=False) for s in _squares(r, found)])
    choices = []
    for i, ((known, x), noise, found) in enumerate(zip(objects, noises, poses, strict=True)):
        refiners: dict[str, Refiner] = {}
        if raycaster_installed():
            model = known.model
            refiners["edges"] = EdgeRefiner(x.mesh, x.corners, model.diameter, noise, model.symmetries)
        if learned:
            refiners["features"] = replace(learned[i], spread_scale=learned_scale)
            refiners["both"] = InTurn((refiners["features"], refiners["edges"]))
        ratios = {name: improvement(refiner, found) for name, refiner in refiners.items()}
        choices.append(Choice(noise, min((n for n in ratios if ratios[n] < 1), key=ratios.__getitem__, default="")))
    return choices, learned_scale


def improvement(refiner: Refiner, poses: Sequence[tuple[Case, Solution]]) -> float:
    """Of ADD(-S) in the median, after to before: below 1 where the refiner helps. 1 where there are no poses, or where
    fewer than before are good, by ADD(-S), 2D projection and 5 cm 5° together: one of them alone is often wrong, where
    labels are."""
    if not poses:
        return 1.0
    pairs = [[judged(case, x) for x in (plain, refiner.refine(case.look, plain))] for case, plain in poses]
    return compared(*zip(*pairs, strict=True))


def compared(before: Sequence[PoseErrors], after: Sequence[PoseErrors]) -> float:
    """As `improvement`, of the same poses before and after."""
    if _good(after) < _good(before):
        return 1.0
    return float(np.median([x.add for x in after]) / np.median([x.add for x in before]))


def _good(errors: Sequence[PoseErrors]) -> int:
    """How many poses are good, by each measure."""
    return sum(x.add_correct + x.projection_correct + x.within_5cm_5deg for x in errors)


def _squares(refiner: FeatureRefiner, poses: Sequence[tuple[Case, Solution]]) -> list[float]:
    """What h_Δ is off by at the network's poses."""
    found = []
    for case, x in poses:
        T = x.T_camera_object
        square = refiner.squared_error(case.look, T, nearest_truth(T, case.truths))
        found += [] if square is None else [square]
    return found
