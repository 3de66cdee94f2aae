"""The loss of Eq. 1, L = L_hS + β L_hR + γ L_g, as named terms; and which network receives which gradient.

| term | images | path | gradient reaches |
|---|---|---|---|
| L_hS, Eq. 2 | x_s of T^S (and x_m, the synthetic halves of T^M) | h(f(x_s)) | f, h |
| L_hR, Eq. 3 | x_r of T^R | h(g(f(x_r))) | f, g, h |
| L_g, Eq. 4 | pairs (x_r, x_m) of T^M | g(f(x_r)) − f(x_m) | f, g; through f(x_m) too unless `target_gradient` is off |
| L_u (beyond the paper) | all | error output of h | that output alone |
| L_p (beyond the paper, an option) | all | points(f(x_s)), points(g(f(x_r))) | f, g |
| L_r (beyond the paper, an option) | all | corners and points of h(f(x_s)), h(g(f(x_r))) | f, g, h |
| L_z (beyond the paper, an option) | all | distance(f(x_s)), distance(g(f(x_r))) | f, g, h |
| L_c (beyond the paper, an option) | all | presence(f(x_s)), presence(g(f(x_r))) | f, g, h |
| L_f (beyond the paper, an option) | all | f(x) | f |

Terms of other methods are in `adaptation`. Sums over the training set become means over a batch; sums over coordinates
and features stay. With several cells per image h's prediction is the weighted mean of their votes, and Eq. 4 is
averaged evenly over cells. L_u teaches h to expect its error. L_p asks each cell's features which point of the object
it shows, if any: a dense task beside the pose, which f learns much sooner. L_r asks for the rotation of the pose that
PnP would make of corners and points. L_z asks for the object's distance: its
apparent size, of which the corners' errors in pixels say little (Li et al., CDPN, ICCV 2019). L_c asks whether there is
a hand in the window. L_f keeps features small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fm_pose_core.config import knob
from fm_pose_core.contract import CORNERS, SURFACE_SCALE
from fm_pose_core.errors import expect
from fm_pose_core.learning.heads import LOG_OF_NORMAL, HeadLoss
from fm_pose_core.learning.networks import FeatureMapping
from fm_pose_core.learning.rotation import project, turn

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class LossConfig:
    beta: float = knob(1.0, "β of Eq. 1, weight of L_hR.", 0.0, 1e6)
    gamma: float = knob(0.2, "γ of Eq. 1, weight of L_g.", 0.0, 1e6)
    target_gradient: bool = knob(
        True, "Whether L_g also moves the features of the synthetic image (the paper trains all jointly)."
    )
    feature_variance: float = knob(
        0.0,
        "0: L_g as in Eq. 4. Else L_g is relative: the share of the synthetic features' variance that the mapping "
        "leaves, times this; the cells that show the object count half.",
        0.0,
        1e6,
    )
    points: float = knob(0.0, "Weight of L_p, beyond the paper: the object's surface point in each cell.", 0.0, 1e6)
    distance: float = knob(4.0, "Weight of L_z, for network.distance: how far away the object is.", 0.0, 1e6)
    rotation: float = knob(0.0, "Weight of L_r, for network.surface: how far the pose is turned.", 0.0, 1e6)
    presence: float = knob(1.0, "Weight of L_c, for network.presence: whether there is a hand.", 0.0, 1e6)
    huber: float = knob(
        0.0,
        "0: squared error as in Eq. 2 and 3. Else beyond this distance (in halves of the window) the error of a point "
        "grows linearly.",
        0.0,
        10.0,
    )
    size: float = knob(
        0.0,
        "Weight of L_f, the features' mean square: nothing else bounds what h does not read (see FeatureSize).",
        0.0,
        1e6,
    )
    related: float = knob(1.0, "Weight of L_w, for the method rozantsev: f and f_s stay related.", 0.0, 1e6)
    domain: float = knob(
        1.0, "Weight of L_d, for the methods gradient_reversal and adda: which domain is seen.", 0.0, 1e6
    )
    mmd: float = knob(
        0.25, "Weight of L_mmd, for the methods ddc and rozantsev: the distance of the features' means.", 0.0, 1e6
    )


@dataclass(frozen=True)
class Answers:
    """Features that h reads (N, L, D), the images' labels (suffixes left out), h's loss for each image, and what it
    predicts."""

    features: Tensor
    labels: dict[str, Tensor]
    loss: HeadLoss
    prediction: Any


@dataclass(frozen=True)
class Seen:
    """What the networks make of a batch. features: f's (N, L, D) of x_s, x_m and x_r, as far as the batch has them.
    mapped: g's of x_r. synthetic: h's answers for x_s and x_m together; real: for x_r. progress: share of the phase
    that is done, 0 to 1."""

    features: dict[str, Tensor]
    mapped: Tensor | None
    synthetic: Answers | None
    real: Answers | None
    progress: float

    @property
    def domains(self) -> tuple[Tensor, Tensor] | None:
        """Features of synthetic images (x_s and x_m together) and of real ones, (N, L, D) float32 each; None where
        the batch does not have both."""
        synthetic = [self.features[k] for k in ("x_s", "x_m") if k in self.features]
        if not synthetic or "x_r" not in self.features:
            return None
        return torch.cat(synthetic).float(), self.features["x_r"].float()

    @property
    def answers(self) -> list[Answers]:
        """What there is of both."""
        return [x for x in (self.synthetic, self.real) if x is not None]


class Term(nn.Module):
    """One named loss of a batch, which may have layers of its own. A term whose weight is 0 is left out. name: in logs
    and checkpoints. knobs: of LossConfig, that it reads."""

    name: ClassVar[str]
    knobs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    @staticmethod
    def weight(config: LossConfig) -> float:
        """Its factor in the sum L."""
        return 1.0

    def forward(self, seen: Seen) -> Tensor | None:
        """A scalar; None where the batch has nothing for it."""
        raise NotImplementedError


class SyntheticPose(Term):
    """L_hS = ‖h(f(x_s)) − y_s‖² (Eq. 2)."""

    name, knobs = "L_hS", ("huber",)

    def forward(self, seen: Seen) -> Tensor | None:
        return seen.synthetic.loss.pose.mean() if seen.synthetic else None


class RealPose(Term):
    """L_hR = ‖h(g(f(x_r))) − y_r‖² (Eq. 3)."""

    name, knobs = "L_hR", ("beta", "huber")

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.beta

    def forward(self, seen: Seen) -> Tensor | None:
        return seen.real.loss.pose.mean() if seen.real else None


class MappedFeatures(Term):
    """L_g = ‖g(f(x_r)) − f(x_m)‖² (Eq. 4), for the pairs; averaged over the batch and evenly over the cells.

    Relative to the features' variance (`feature_variance`), the cells in which x_m shows the object, where the labels
    say so, count as much as all others together, and the variance is theirs. The others are many, show the same
    background in both images, and could hold any variance."""

    name, knobs = "L_g", ("gamma", "target_gradient", "feature_variance")

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.gamma

    def forward(self, seen: Seen) -> Tensor | None:
        if seen.mapped is None or "x_m" not in seen.features:
            return None
        target = seen.features["x_m"].float()  # (M, L, D), which belong to the first M of x_r
        target = target if self.config.target_gradient else target.detach()
        error = (seen.mapped[: len(target)].float() - target).square().sum(-1)
        if self.config.feature_variance == 0:
            return error.mean()
        shown = self._shown(seen, target)
        parts = [(error * w).sum() / w.sum() for w in (shown, 1.0 - shown) if w.any()]
        return self.config.feature_variance * torch.stack(parts).mean() / _variance(target.detach(), shown)

    @staticmethod
    def _shown(seen: Seen, target: Tensor) -> Tensor:
        """(M, L): 1 for the cells that show the object, 0 for the others; 1 where nobody says."""
        points = seen.synthetic.labels.get("p") if seen.synthetic else None  # those of x_m come last
        if points is None or points.shape[1] != target.shape[1]:
            return target.new_ones(target.shape[:2])
        return (~points[-len(target) :, :, 0].isnan()).float()


def _variance(features: Tensor, shown: Tensor) -> Tensor:
    """Of (M, L, D) over the images, summed over coefficients: an unbiased mean over the cells, of those that are shown
    (M, L); infinite where no cell is shown twice."""
    weight, freedom = shown[..., None], (shown.sum(0) - 1).clamp_min(0).sum()
    mean = (weight * features).sum(0) / weight.sum(0).clamp_min(1)
    variance = (weight * (features - mean).square()).sum() / freedom.clamp_min(1)
    return torch.where(freedom > 0, variance + 1e-6, torch.inf)


class FeatureSize(Term):
    """L_f: the mean square of f's features.

    A relative L_g (`feature_variance`) whose targets stand still (no `target_gradient`) does not bound them where h
    does not read them: g(f(x_r)) moves towards f(x_m), which moves along, since f is the same, and farther. Such a
    training diverges in the end, as estimates of values do that are learned from themselves (Tsitsiklis and Van Roy,
    1997)."""

    name, knobs = "L_f", ("size",)

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.size

    def forward(self, seen: Seen) -> Tensor | None:
        return torch.cat(list(seen.features.values())).float().square().mean() if seen.features else None


class ExpectedError(Term):
    """L_u: h expects its own error."""

    name = "L_u"

    def forward(self, seen: Seen) -> Tensor | None:
        return torch.cat([x.loss.expectation for x in seen.answers]).mean() if seen.answers else None


class SurfacePoints(Term):
    """L_p: whether a cell shows the object (cross entropy), and which point if so (in units of SURFACE_SCALE, absolute
    error summed over x, y, z). Labels: p (N, L, 3) metres, object frame, NaN where there is none; for objects with
    symmetries also e (N, S, 3, 4), which takes points to the frame of each equivalent pose.

    Where h answers with the surface this is its loss, and the points' expected error learns as L_u does. Elsewhere a
    layer of its own answers, which is dropped after the training."""

    name, knobs = "L_p", ("points",)

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        extractor = model.config.extractor
        expect(model.f.cells > 1, "loss.points", f"0 for {extractor}, which has no cells (L_p)", config.points)
        own = model.contract.head != "surface"
        self.layer = nn.Linear(model.f.feature_size, 4) if own else None

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.points

    def forward(self, seen: Seen) -> Tensor | None:
        parts = [self._predicted(x) for x in seen.answers]
        predicted, logit = (torch.cat([x[k] for x in parts]) for k in (0, 1))
        points = torch.cat([_in_chosen_frame(x) for x in seen.answers])
        shown, count = ~points[..., 0].isnan(), (~points[..., 0].isnan()).sum().clamp_min(1)
        difference = predicted - points.nan_to_num() / SURFACE_SCALE
        loss = nn.functional.binary_cross_entropy_with_logits(logit, shown.float())
        loss = loss + (difference.abs().sum(-1) * shown).sum() / count
        if self.layer is None:
            log_error = torch.cat([x[2] for x in parts])
            actual = 0.5 * difference.detach().square().mean(-1).clamp_min(1e-6).log()
            loss = loss + ((log_error - actual).square() * shown).sum() / count
        return loss

    def _predicted(self, x: Answers) -> tuple[Tensor, ...]:
        """Points (N, L, 3) and the logit of presence (N, L); of h also the expected log error (N, L)."""
        if self.layer is not None:
            numbers = self.layer(x.features).float()
            return numbers[..., :3], numbers[..., 3]
        surface = x.prediction.surface
        assert surface is not None
        image, k = torch.arange(len(x.features), device=x.features.device), x.labels["k"]
        return surface.points[image, :, k], surface.presence[image, :, k], surface.log_error[image, :, k]


def _in_chosen_frame(x: Answers) -> Tensor:
    """Surface points as the symmetry sees them whose corners counted."""
    points = x.labels["p"]
    if "e" not in x.labels:
        return points
    E = x.labels["e"][torch.arange(len(points), device=points.device), x.loss.choice]  # (N, 3, 4)
    return points @ E[:, :, :3].transpose(1, 2) + E[:, None, :, 3]


NEAR = 0.15  # of the network's own number for a distance, 6 % of it: beyond, its error counts linearly


class ObjectDistance(Term):
    """L_z: the distance of the object (label d), where h answers with one: squared error, growing linearly beyond
    NEAR; and the squared error of the expected log error, which has the weight of L_u."""

    name, knobs = "L_z", ("distance",)

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.distance

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        self.output = next((x for x in model.contract.outputs if x.name == "distance"), None)

    def forward(self, seen: Seen) -> Tensor | None:
        if self.output is None:
            return None
        parts = [self._of(x) for x in seen.answers]
        return torch.cat(parts).mean() if parts else None

    def _of(self, x: Answers) -> Tensor:
        """(N,)."""
        distance, output = x.prediction.distance, self.output
        assert distance is not None and output is not None
        image, k = torch.arange(len(x.features), device=x.features.device), x.labels["k"]
        target = (x.labels["d"] - output.shift) / output.scale
        error = distance.log[image, k] - target
        cost = 2.0 * nn.functional.huber_loss(distance.log[image, k], target, reduction="none", delta=NEAR)
        actual = 0.5 * error.detach().square().clamp_min(1e-6).log() + LOG_OF_NORMAL
        return cost + (distance.log_error[image, k] - actual).square() / self.config.distance


class HandPresence(Term):
    """L_c: whether there is a hand, where h answers so: cross entropy. An image whose joints (label y) are NaN shows
    none."""

    name, knobs = "L_c", ("presence",)

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.presence

    def forward(self, seen: Seen) -> Tensor | None:
        logits = [x.prediction.presence for x in seen.answers if getattr(x.prediction, "presence", None) is not None]
        if not logits:
            return None
        there = [~x.labels["y"][:, 0, :1].isnan() for x in seen.answers]
        return nn.functional.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(there).float())


FLOOR = 0.5  # pixels: no measurement is better, as in objects.pnp
SLIGHT, TURN = 0.05, 0.1  # radians: from where on an angle counts linearly; one that costs 1


class PoseRotation(Term):
    """L_r: the angle by which the pose is turned that corners and surface points make together, to first order
    (`rotation.turn`), where h answers with the surface. The errors of single points may be small and yet all turn the
    object alike; L_p does not mind. Labels: m (N, 3, 4), K [R t] of the window's camera; b (N, 8, 3), the box.

    Corners and points have the weights of `objects.surface.solve_surface`: all points together count as much as all
    corners."""

    name, knobs = "L_r", ("rotation",)

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        wanted = "0 without network.surface (L_r)"
        expect(model.contract.head == "surface", "loss.rotation", wanted, config.rotation)
        self.output = model.contract.outputs[0]

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.rotation

    def forward(self, seen: Seen) -> Tensor | None:
        parts = [self.turned(x) for x in seen.answers if getattr(x.prediction, "surface", None) is not None]
        if not parts:
            return None
        squared = torch.cat(parts).square().sum(-1)
        return ((squared + SLIGHT**2).sqrt() - SLIGHT).mean() / TURN

    def turned(self, x: Answers) -> Tensor:
        """(N, 3) radians, about the object's axes."""
        image, k, surface = torch.arange(len(x.features), device=x.features.device), x.labels["k"], x.prediction.surface
        E = x.labels["e"][image, x.loss.choice]  # to the frame of the equivalent pose that counted: all comes back
        R, t = E[:, :, :3], E[:, None, :, 3]
        box, points = (x.labels["b"] - t) @ R, x.labels["p"]
        shown, points = ~points[..., 0].isnan(), points.nan_to_num()
        _, motion = project(torch.cat([box, points], 1), x.labels["m"])
        at_points = motion[:, CORNERS:]

        corners = x.prediction.mean[image, k] * self.output.scale + self.output.shift
        off = (surface.points[image, :, k] * SURFACE_SCALE - t) @ R - points
        seen_elsewhere = -(at_points @ off[..., None]).squeeze(-1)  # as if the right point were there
        errors = torch.cat([corners - x.labels["y"][image, x.loss.choice], seen_elsewhere], 1)

        spread = x.prediction.log_error[image, k].exp() * self.output.scale
        doubt = surface.log_error[image, :, k].exp() * SURFACE_SCALE
        pixels_per_metre = at_points.square().sum((2, 3)).div(2).sqrt()
        share = shown * (CORNERS / shown.sum(1, keepdim=True).clamp_min(1))
        of_points = (FLOOR**2 + (doubt * pixels_per_metre) ** 2) / share  # infinite where nothing is shown
        of_corners = (FLOOR**2 + spread**2)[:, None].expand(-1, CORNERS)
        variance = torch.cat([of_corners, of_points], 1)
        return turn(errors, variance, torch.cat([box, points], 1), motion, box.mean(1))


# Beside the paper's terms.
BESIDE: tuple[type[Term], ...] = (ExpectedError, SurfacePoints, ObjectDistance, PoseRotation, HandPresence, FeatureSize)
POSE_TERMS: tuple[type[Term], ...] = (SyntheticPose, RealPose, *BESIDE)


class Objective(nn.Module):
    """The networks and the terms of a method. forward(batch) gives the named losses and their weighted sum L. Wrapped
    as a whole for distributed training."""

    def __init__(self, model: FeatureMapping, config: LossConfig, terms: Sequence[type[Term]]) -> None:
        super().__init__()
        self.model, self.config = model, config
        chosen = [t for t in dict.fromkeys(terms) if t.weight(config) > 0]
        self.terms = nn.ModuleDict({t.name: t(model, config) for t in chosen})
        self.weights = {t.name: t.weight(config) for t in chosen}
        self.active = tuple(self.terms)
        self.progress = 0.0
        self.adapting = True  # whether synthetic images have an extractor of their own, where the model has one

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """batch: images x_s, x_m, x_r (N, S, S, C) and their labels with the same suffixes, in the units of the model's
        contract (learning/heads.py). The M images x_m belong to the first M of x_r and have their labels. What the
        batch lacks has no term."""
        seen = self.look(batch)
        values = {name: self.terms[name](seen) for name in self.active}
        losses: dict[str, Tensor] = {name: value for name, value in values.items() if value is not None}
        losses["L"] = sum((self.weights[k] * v for k, v in losses.items()), torch.zeros(()))  # Eq. 1
        return losses

    def look(self, batch: Batch) -> Seen:
        """f, g and h of all images of the batch."""
        g = self.model.g
        features = self.extract({k: batch[k] for k in ("x_s", "x_m", "x_r") if k in batch})
        mapped: Tensor | None = g(features["x_r"]) if "x_r" in features else None
        labels = {kind: _labels(batch, kind, len(x)) for kind, x in features.items()}
        synthetic = [k for k in ("x_s", "x_m") if k in features]
        answers = None
        if synthetic:
            joined = {n: torch.cat([labels[k][n] for k in synthetic]) for n in labels[synthetic[0]]}
            answers = self.answer(torch.cat([features[k] for k in synthetic]), joined)
        real = self.answer(mapped, labels["x_r"]) if mapped is not None else None
        return Seen(features, mapped, answers, real, self.progress)

    def extract(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """f's features of each kind of images; f_s's of synthetic ones, where the method has two extractors."""
        f, f_s = self.model.f, self.model.f_s
        if f_s is None or not self.adapting:
            return _through(f, images)
        synthetic = {k: x for k, x in images.items() if k != "x_r"}
        return {**_through(f_s, synthetic), **_through(f, {k: x for k, x in images.items() if k == "x_r"})}

    def answer(self, features: Tensor, labels: dict[str, Tensor]) -> Answers:
        """h, and its loss against the labels."""
        prediction = self.model.h(features)
        return Answers(features, labels, self.model.h.loss(prediction, labels, self.config.huber), prediction)


def _through(f: nn.Module, images: dict[str, Tensor]) -> dict[str, Tensor]:
    if not images:
        return {}
    x = FeatureMapping.normalise(torch.cat(list(images.values()))).contiguous(memory_format=torch.channels_last)
    return dict(zip(images, f(x).split([len(v) for v in images.values()]), strict=True))


def _labels(batch: Batch, kind: str, count: int) -> dict[str, Tensor]:
    """The labels of one kind of images by their names without suffix; x_m shares those of x_r but for its own."""
    own = {k[:-2]: v for k, v in batch.items() if k.endswith(kind[1:]) and not k.startswith("x_")}
    if kind == "x_m":
        own = {k[:-2]: v[:count] for k, v in batch.items() if k.endswith("_r") and not k.startswith("x_")} | own
    return own
