"""h: what a network predicts. A head is a class with `forward` (features to its own numbers), `decode` (its numbers to
the named outputs of the contract) and `loss` (its numbers against labels). A new kind is one class and one name.

Every cell of the features votes for points, with a confidence. With one cell, as published, this is the paper's single
fully-connected layer (section 3.4).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm_pose_core.contract import Contract
from fm_pose_core.errors import expect
from fm_pose_core.learning.extractors.base import Residual

Labels = Mapping[str, Tensor]
WIDTH, HIDDEN = 64, 128  # of h_Δ
LOG_OF_NORMAL = 0.635  # minus the mean of log |x|, for a normal variate of variance 1
RARE = -4.0  # logit of the share of cells that show an object's centre, to begin with


class Surface(NamedTuple):
    """Which point of each of G objects a cell shows: points (N, L, G, 3) in units of SURFACE_SCALE; log_error
    (N, L, G), of the RMS error to expect in a coordinate; presence (N, L, G), a logit."""

    points: Tensor
    log_error: Tensor
    presence: Tensor


class Distance(NamedTuple):
    """How far away each of G objects is, in the contract's own numbers: log (N, G), the mean of the cells' votes;
    log_error (N, G), of the error to expect."""

    log: Tensor
    log_error: Tensor


class Prediction(NamedTuple):
    """votes (N, L, G, P, dims) of L cells, for G groups of P points. weights (N, L, G): of the cells, they sum to one.
    log_error (N, G): logarithm of the RMS error to expect in a coordinate. All in the network's own coordinates: 0 is
    the centre of the window (or cube), ±1 its borders. surface, distance, presence: of heads that answer which point
    each cell shows, how far away the object is, and whether there is a hand, a logit (N, 1)."""

    votes: Tensor
    weights: Tensor
    log_error: Tensor
    surface: "Surface | None" = None
    distance: "Distance | None" = None
    presence: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """(N, G, P, dims)."""
        return (self.weights[..., None, None] * self.votes).sum(1)


class Field(NamedTuple):
    """Where each of G objects is, by L cells: centre (N, G, L, 2) in the network's own coordinates, heat (N, G, L) a
    logit, depth (N, G, L) in the contract's own numbers, of heads that answer it."""

    centre: Tensor
    heat: Tensor
    depth: Tensor | None = None


class HeadLoss(NamedTuple):
    """For each image (N,): pose, ‖h(…) − y‖² summed over the points (Eq. 2); expectation, the squared error of the
    expected log error; choice, which of the equivalent labels counted; expected, that log error, of heads that vote;
    NaN where it learns nothing."""

    pose: Tensor
    expectation: Tensor
    choice: Tensor
    expected: Tensor | None = None


class Head(nn.Module):
    """What the training and the exporter need of h."""

    def forward(self, features: Tensor) -> Any:
        """(N, L, D) features to the head's own numbers."""
        raise NotImplementedError

    def decode(self, prediction: Any) -> dict[str, Tensor]:
        """The outputs that the contract names, in its units."""
        raise NotImplementedError

    def loss(self, prediction: Any, labels: Labels, huber: float = 0.0) -> HeadLoss:
        """Against the labels of the images, in the contract's units. huber: beyond this distance (in halves of the
        window) the error of a point grows linearly; 0: never."""
        raise NotImplementedError


class Votes(Head):
    """Points in groups: those of a group hang together rigidly, and share a cell's confidence and its error. One
    fully-connected layer gives the coordinates; a cell's vote is relative to the cell's centre."""

    anchors: Tensor

    def __init__(self, features: int, cells: int, contract: Contract, groups: int, points: int, dims: int) -> None:
        super().__init__()
        self.contract, self.groups, self.points, self.dims = contract, groups, points, dims
        self.fc = nn.Linear(features, groups * points * dims)
        self.confidence = nn.Linear(features, groups) if cells > 1 else None
        self.error = nn.Linear(features, groups)
        side = math.isqrt(cells)
        centres = (torch.arange(side) + 0.5) * 2.0 / side - 1.0
        v, u = torch.meshgrid(centres, centres, indexing="ij")
        anchors = torch.zeros(cells, dims)  # zero where there is one cell
        anchors[:, :2] = torch.stack([u, v], -1).reshape(cells, 2)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, features: Tensor) -> Prediction:
        """(N, L, D). The expected error learns from the features without changing them (L_u)."""
        votes = self.fc(features).float().unflatten(-1, (self.groups, self.points, self.dims))
        votes = votes + self.anchors[:, None, None]
        log_errors = self.error(features.detach()).float()  # (N, L, G)
        confidences = log_errors if self.confidence is None else self.confidence(features).float()
        weights = confidences.softmax(1)  # one where L = 1
        return Prediction(votes, weights, (weights.detach() * log_errors).sum(1))

    def decode(self, prediction: Prediction) -> dict[str, Tensor]:
        """Points, and `spread`: the standard deviation to expect of their coordinates."""
        points, spread = self.contract.outputs[:2]
        mean = prediction.mean
        deviation = torch.ones_like(mean) * (prediction.log_error.exp() * spread.scale)[..., None, None]
        return {
            points.name: mean.reshape(-1, *points.shape) * points.scale + points.shift,
            spread.name: deviation.reshape(-1, *spread.shape),
        }

    def _loss(self, mean: Tensor, log_error: Tensor, y: Tensor, huber: float) -> HeadLoss:
        """mean (N, G, P, dims), log_error (N, G); y (N, S, G, P, dims): S equivalent labels, the cheapest counts."""
        output = self.contract.outputs[0]
        target = (y - output.shift) / output.scale
        squared = (mean[:, None] - target).square().sum(-1)  # (N, S, G, P)
        cost = squared
        if huber > 0:
            distance = squared.clamp_min(1e-12).sqrt()
            cost = torch.where(distance < huber, squared, 2.0 * huber * distance - huber * huber)
        pose, choice = cost.sum((2, 3)).min(1)  # the label of the image, not of a cell
        chosen = squared[torch.arange(len(squared), device=squared.device), choice]  # (N, G, P)
        actual = 0.5 * (chosen.detach() / self.dims).mean(-1).clamp_min(1e-6).log()  # log RMS of a coordinate
        return HeadLoss(pose, (log_error - actual).square().mean(1), choice, log_error.mean(1))


class CornerVotes(Votes):
    """The 8 projected corners of the bounding box of each object that the network knows (Rad and Lepetit, BB8, ICCV
    2017): a group for each object."""

    def __init__(self, features: int, cells: int, contract: Contract) -> None:
        *objects, points, dims = contract.outputs[0].shape
        super().__init__(features, cells, contract, math.prod(objects), points, dims)
        self.distance, self.distance_error = None, None
        if any(x.name == "distance" for x in contract.outputs):
            self.distance, self.distance_error = (nn.Linear(features, self.groups) for _ in range(2))

    def forward(self, features: Tensor) -> Prediction:
        """(N, L, D). The cells' confidence weighs their votes for the distance as well."""
        prediction = super().forward(features)
        if self.distance is None or self.distance_error is None:
            return prediction
        log = (prediction.weights * self.distance(features).float()).sum(1)
        errors = self.distance_error(features.detach()).float()
        return prediction._replace(distance=Distance(log, (prediction.weights.detach() * errors).sum(1)))

    def decode(self, prediction: Prediction) -> dict[str, Tensor]:
        """And the distance, with its standard deviation."""
        answers = super().decode(prediction)
        if prediction.distance is not None:
            log, spread = (x for x in self.contract.outputs if x.name.startswith("distance"))
            answers[log.name] = prediction.distance.log * log.scale + log.shift
            answers[spread.name] = prediction.distance.log_error.exp() * spread.scale
        return answers

    def loss(self, prediction: Prediction, labels: Labels, huber: float = 0.0) -> HeadLoss:
        """y (N, S, 8, 2): the corners under each of the object's S symmetries, window pixels; k (N,): which object."""
        image, k = torch.arange(len(labels["k"]), device=labels["k"].device), labels["k"]
        mean, log_error = prediction.mean[image, k], prediction.log_error[image, k]
        return self._loss(mean[:, None], log_error[:, None], labels["y"][:, :, None], huber)


class SurfaceVotes(CornerVotes):
    """And, for each cell and object, the point of the surface that the cell shows: L_p teaches it."""

    def __init__(self, features: int, cells: int, contract: Contract) -> None:
        super().__init__(features, cells, contract)
        wanted = contract.outputs[2].shape[1]
        expect(cells == wanted > 1, "network.surface", "an extractor with cells", f"{cells} of {wanted}")
        self.surface = nn.Linear(features, 4 * self.groups)
        self.doubt = nn.Linear(features, self.groups)

    def forward(self, features: Tensor) -> Prediction:
        """(N, L, D). The expected error of the points learns from the features without changing them, as L_u."""
        numbers = self.surface(features).float().unflatten(-1, (self.groups, 4))
        surface = Surface(numbers[..., :3], self.doubt(features.detach()).float(), numbers[..., 3])
        return super().forward(features)._replace(surface=surface)

    def decode(self, prediction: Prediction) -> dict[str, Tensor]:
        """And points, doubt, presence."""
        surface, (points, doubt, presence) = prediction.surface, self.contract.outputs[2:5]
        assert surface is not None
        return {
            **super().decode(prediction),
            points.name: (surface.points.transpose(1, 2) * points.scale).reshape(-1, *points.shape),
            doubt.name: (surface.log_error.exp().transpose(1, 2) * doubt.scale).reshape(-1, *doubt.shape),
            presence.name: surface.presence.sigmoid().transpose(1, 2).reshape(-1, *presence.shape),
        }


class JointVotes(Votes):
    """The joints of a hand (section 4.2), each a group of its own."""

    def __init__(self, features: int, cells: int, contract: Contract) -> None:
        joints, dims = contract.outputs[0].shape
        super().__init__(features, cells, contract, joints, 1, dims)
        tells = any(x.name == "presence" for x in contract.outputs)
        self.presence = nn.Linear(2 * features, 1) if tells else None

    def forward(self, features: Tensor) -> Prediction:
        """(N, L, D). Whether there is a hand follows from the cells' features, on average and at most."""
        prediction = super().forward(features)
        if self.presence is None:
            return prediction
        seen = torch.cat([features.mean(1), features.amax(1)], -1)
        return prediction._replace(presence=self.presence(seen).float())

    def decode(self, prediction: Prediction) -> dict[str, Tensor]:
        """And the presence of a hand."""
        answers = super().decode(prediction)
        return answers if prediction.presence is None else {**answers, "presence": prediction.presence.sigmoid()}

    def loss(self, prediction: Prediction, labels: Labels, huber: float = 0.0) -> HeadLoss:
        """y (N, J, 3): the joints relative to the cube's centre, metres; NaN for an image without a hand, which costs
        nothing here (losses.HandPresence)."""
        there = ~labels["y"][:, 0, 0].isnan()
        y = labels["y"].nan_to_num()[:, None, :, None]
        loss = self._loss(prediction.mean, prediction.log_error, y, huber)
        assert loss.expected is not None
        expected = loss.expected.masked_fill(~there, torch.nan)
        return loss._replace(pose=loss.pose * there, expectation=loss.expectation * there, expected=expected)


class Centres(Head):
    """Where objects are: the centre of the box of each, and which object it is (Zhou et al., Objects as Points, 2019).
    Cells without an object say so. Each object has centres of its own: where one hides another, theirs may lie in the
    same cell."""

    anchors: Tensor

    def __init__(self, features: int, cells: int, contract: Contract) -> None:
        super().__init__()
        self.contract = contract
        objects = contract.outputs[1].shape[0]
        self.centre = nn.Linear(features, 2 * objects)
        self.heat = nn.Linear(features, objects)
        nn.init.constant_(self.heat.bias, RARE)
        self.depth = nn.Linear(features, objects) if len(contract.outputs) > 2 else None
        side = math.isqrt(cells)
        expect(cells == side * side > 1, "detector.network.extractor", "an extractor with cells", cells)
        self.pitch = 2.0 / side
        middles = (torch.arange(side) + 0.5) * self.pitch - 1.0
        v, u = torch.meshgrid(middles, middles, indexing="ij")
        self.register_buffer("anchors", torch.stack([u, v], -1).reshape(cells, 2), persistent=False)

    def forward(self, features: Tensor) -> Field:
        """(N, L, D)."""
        offsets = self.centre(features).float().unflatten(2, (-1, 2)).transpose(1, 2)
        depth = None if self.depth is None else self.depth(features).float().transpose(1, 2)
        return Field(self.anchors + self.pitch * offsets, self.heat(features).float().transpose(1, 2), depth)

    def decode(self, prediction: Field) -> dict[str, Tensor]:
        """Centres, the heat of each object, and perhaps the depth."""
        centre, heat, *rest = self.contract.outputs
        answers = {
            centre.name: (prediction.centre * centre.scale + centre.shift).reshape(-1, *centre.shape),
            heat.name: prediction.heat.sigmoid().reshape(-1, *heat.shape),  # else ONNX has no shape
        }
        for depth in rest:
            assert prediction.depth is not None
            answers[depth.name] = (prediction.depth * depth.scale + depth.shift).reshape(-1, *depth.shape)
        return answers

    def loss(self, prediction: Field, labels: Labels, huber: float = 0.0) -> HeadLoss:
        """y (N, M, 3): the centres of up to M objects, window pixels, and the logarithms of their depths, NaN beyond;
        k (N, M): which objects. The heat shall be a hill over each centre, one cell wide, and cells near the top count
        the less the higher it is there (the focal loss of Law and Deng, CornerNet, 2018); cells within 1.5 of a centre
        tell where it is, and how deep, of this object."""
        output = self.contract.outputs[0]
        y, k = (labels["y"][..., :2] - output.shift) / output.scale, labels["k"]
        there = ~y[..., 0].isnan()  # (N, M)
        away = (y.nan_to_num(1e3)[:, :, None] - self.anchors) / self.pitch  # (N, M, L, 2) cells
        squared = away.square().sum(-1)
        each, own = torch.exp(-0.5 * squared) * there[..., None], k[..., None].expand_as(squared)
        wanted = torch.zeros_like(prediction.heat).scatter_reduce(1, own, each, "amax")
        top = (away.abs() <= 0.5).all(-1) & there[..., None]
        tops = torch.zeros_like(wanted).scatter_reduce(1, own, top.float(), "amax")
        p = prediction.heat.sigmoid().clamp(1e-5, 1 - 1e-5)
        found = tops * (1 - p).square() * p.log()
        absent = (1 - tops) * (1 - wanted) ** 4 * p.square() * (1 - p).log()
        count = there.sum(1).clamp_min(1)
        focal = -(found + absent).sum((1, 2)) / count
        near, image = (squared < 2.25) & there[..., None], torch.arange(len(k), device=k.device)[:, None]
        missed = (prediction.centre[image, k] - y.nan_to_num()[:, :, None]).abs().sum(-1) / self.pitch * near
        if prediction.depth is not None:
            depth = self.contract.outputs[2]
            deep = (labels["y"][..., 2].nan_to_num() - depth.shift) / depth.scale  # (N, M)
            missed = missed + (prediction.depth[image, k] - deep[..., None]).abs() * near
        place = missed.sum((1, 2)) / near.sum((1, 2)).clamp_min(1)
        zero = torch.zeros_like(focal)
        return HeadLoss(focal + place, zero, zero.long())


class Update(Head):
    """h_Δ: what moves a rendering to what is seen. The features of both stand side by side in each cell (see
    networks.Compared); which of them differ, and where, says how."""

    def __init__(self, features: int, cells: int, contract: Contract) -> None:
        super().__init__()
        self.contract, self.side = contract, math.isqrt(cells)
        fits = cells == self.side**2 and self.side % 4 == 0
        expect(fits, "network.extractor", "cells in a square, its side a multiple of 4, to refine by", f"{cells} cells")
        self.enter = nn.Conv2d(features, WIDTH, 1)
        down = [nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1) for _ in range(2)]
        relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(relu, Residual(WIDTH), down[0], relu, Residual(WIDTH), down[1], relu, nn.Flatten())
        self.fc = nn.Linear(WIDTH * (self.side // 4) ** 2, HIDDEN)
        self.update, self.error = nn.Linear(HIDDEN, 6), nn.Linear(HIDDEN, 6)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L, 2D) -> update (N, 6) and the logarithm of its expected error (N, 6)."""
        seen, drawn = features.chunk(2, -1)
        both = torch.cat([seen - drawn, drawn], -1).transpose(1, 2).unflatten(2, (self.side, self.side))
        x = F.relu(self.fc(self.body(self.enter(both))))
        return self.update(x).float(), self.error(x.detach()).float()

    def decode(self, prediction: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Update and spread."""
        update, log_error = prediction
        return {"update": update.reshape(-1, 6), "spread": log_error.exp().reshape(-1, 6)}

    def loss(self, prediction: tuple[Tensor, Tensor], labels: Labels, huber: float = 0.0) -> HeadLoss:
        """y (N, 6)."""
        (update, log_error), y = prediction, labels["y"]
        difference = (update - y).abs()
        cost = difference.square()
        if huber > 0:
            cost = torch.where(difference < huber, cost, 2.0 * huber * difference - huber * huber)
        actual = difference.detach().clamp_min(1e-3).log() + LOG_OF_NORMAL
        return HeadLoss(cost.sum(1), (log_error - actual).square().mean(1), torch.zeros(len(y), dtype=torch.long))


HEADS: dict[str, type[Head]] = {
    "corners": CornerVotes,
    "surface": SurfaceVotes,
    "joints": JointVotes,
    "centres": Centres,
    "update": Update,
}
