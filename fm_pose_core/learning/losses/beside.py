"""Terms beside those of the paper."""

import torch
from torch import Tensor, nn

from fm_pose_core.contract import CORNERS, SURFACE_SCALE
from fm_pose_core.errors import expect
from fm_pose_core.learning.heads import LOG_OF_NORMAL
from fm_pose_core.learning.losses.term import Answers, LossConfig, Seen, Term
from fm_pose_core.learning.networks import FeatureMapping
from fm_pose_core.learning.rotation import project, turn


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

    name, knobs = "L_z", ("distance", "sure")

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
        expectation = (distance.log_error[image, k] - actual).square() / self.config.distance
        return x.weights(self.config.sure) * cost + expectation


FLOOR = 0.5  # pixels: no measurement is better, as in objects.pnp
SLIGHT, TURN = 0.05, 0.1  # radians: from where on an angle counts linearly; one that costs 1


class PoseRotation(Term):
    """L_r: the angle by which the pose is turned that corners and surface points make together, to first order
    (`rotation.turn`), where h answers with the surface. The errors of single points may be small and yet all turn the
    object alike; L_p does not mind. Labels: m (N, 3, 4), K [R t] of the window's camera; b (N, 8, 3), the box.

    Corners and points have the weights of `objects.surface.solve_surface`: all points together count as much as all
    corners."""

    name, knobs = "L_r", ("rotation", "sure")

    def __init__(self, model: FeatureMapping, config: LossConfig) -> None:
        super().__init__(model, config)
        wanted = "0 without network.surface (L_r)"
        expect(model.contract.head == "surface", "loss.rotation", wanted, config.rotation)
        self.output = model.contract.outputs[0]

    @staticmethod
    def weight(config: LossConfig) -> float:
        return config.rotation

    def forward(self, seen: Seen) -> Tensor | None:
        answers = [x for x in seen.answers if getattr(x.prediction, "surface", None) is not None]
        if not answers:
            return None
        squared = torch.cat([self.turned(x) for x in answers]).square().sum(-1)
        weights = torch.cat([x.weights(self.config.sure) for x in answers])
        return (weights * ((squared + SLIGHT**2).sqrt() - SLIGHT)).mean() / TURN

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


BESIDE: tuple[type[Term], ...] = (ExpectedError, SurfacePoints, ObjectDistance, PoseRotation, HandPresence, FeatureSize)
