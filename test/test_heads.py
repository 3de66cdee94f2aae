"""h: what a network predicts, and the loss against labels of which several may be right."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")

from torch import Tensor, nn

from fm_pose_core.contract import (
    SURFACE_SCALE,
    Contract,
    detector_contract,
    hand_contract,
    object_contract,
    update_contract,
)
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, box_corners, exp_so3, project, transform
from fm_pose_core.learning.heads import HEADS, CornerVotes, JointVotes, Prediction, SurfaceVotes, Votes
from fm_pose_core.learning.losses import Answers, HandPresence, LossConfig, Seen, SurfacePoints
from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.samples import Labeller, ObjectAssets
from fm_pose_core.rendering.mesh import Mesh

SIZE, CELLS, FEATURES = 32, 4, 16
HALF_TURN = transform(exp_so3(np.array([0.0, 0.0, np.pi])), np.zeros(3))


def corner_head(objects: int, seed: int = 0) -> CornerVotes:
    torch.manual_seed(seed)
    return CornerVotes(FEATURES, CELLS, object_contract(SIZE, objects))


def features(n: int = 5, seed: int = 1) -> Tensor:
    return torch.rand(n, CELLS, FEATURES, generator=torch.Generator().manual_seed(seed))


def corners(n: int = 5, equivalents: int = 1, seed: int = 2) -> Tensor:
    """(N, S, 8, 2) window pixels."""
    return torch.rand(n, equivalents, 8, 2, generator=torch.Generator().manual_seed(seed)) * SIZE


def rows_of(gradient: Tensor | None, objects: int) -> list[bool]:
    """Which object's part of a layer's weight has a gradient."""
    assert gradient is not None
    return [bool((part != 0).any()) for part in gradient.reshape(objects, -1)]


def test_every_name_has_a_head() -> None:
    surface = object_contract(SIZE, 2, CELLS)
    contracts = {"corners": object_contract(SIZE, 2), "surface": surface, "joints": hand_contract(14, SIZE)}
    contracts["centres"], contracts["update"] = detector_contract(SIZE, 2, CELLS), update_contract(SIZE)
    assert contracts.keys() == HEADS.keys()
    for name, contract in contracts.items():
        cells = 16 if name == "update" else CELLS
        answers = HEADS[name](FEATURES, cells, contract).eval()
        decoded = answers.decode(answers(features(3).repeat(1, cells // CELLS, 1)))
        assert {k: tuple(v.shape[1:]) for k, v in decoded.items()} == {x.name: x.shape for x in contract.outputs}


def test_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"network\.extractor: expected cells in a square.*got 4 cells"):
        HEADS["update"](FEATURES, CELLS, update_contract(SIZE))


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("part", ["pose", "expectation"])
def test_a_sample_trains_the_outputs_of_its_object_alone(k: int, part: str) -> None:
    head = corner_head(3)
    loss = head.loss(head(features()), {"y": corners(), "k": torch.full((5,), k)})
    getattr(loss, part).sum().backward()
    own = [i == k for i in range(3)]
    if part == "pose":
        assert rows_of(head.fc.weight.grad, 3) == rows_of(head.confidence.weight.grad, 3) == own
        assert head.error.weight.grad is None
    else:
        assert rows_of(head.error.weight.grad, 3) == own
        assert head.fc.weight.grad is None and head.confidence.weight.grad is None


def test_a_mixed_batch_has_each_image_s_own_loss() -> None:
    """Images of several objects at once give what each alone gives."""
    head, x, y, k = corner_head(3), features(), corners(), torch.tensor([2, 0, 1, 1, 2])
    together = head.loss(head(x), {"y": y, "k": k})
    for i in range(5):
        alone = head.loss(head(x[i : i + 1]), {"y": y[i : i + 1], "k": k[i : i + 1]})
        assert together.pose[i].item() == pytest.approx(alone.pose.item(), rel=1e-5)
        assert together.expectation[i].item() == pytest.approx(alone.expectation.item(), rel=1e-4)
    different = head.loss(head(x), {"y": y, "k": (k + 1) % 3})
    assert ((different.pose - together.pose).abs() > 1e-3).all()


def test_with_one_label_the_loss_is_the_plain_formula() -> None:
    head, x, y = corner_head(2), features(), corners()
    prediction = head(x)
    loss = head.loss(prediction, {"y": y, "k": torch.ones(5, dtype=torch.int64)})
    weights = head.confidence(x).softmax(1)[:, :, 1]  # (N, L)
    votes = head.fc(x).reshape(5, CELLS, 2, 8, 2)[:, :, 1] + head.anchors[None, :, None]
    mean = (weights[..., None, None] * votes).sum(1)
    error = mean - (y[:, 0] - 15.5) / 16.0  # halves of the window
    assert torch.allclose(loss.pose, error.square().sum((1, 2)), rtol=1e-5)  # Eq. 2
    rms = 0.5 * error.square().mean((1, 2)).log()  # of a coordinate
    # The expectation is of the corners' mean log error.
    each = 0.5 * (error.square().sum(-1) / 2).mean(-1).log()
    assert torch.allclose(rms, each)
    expected = (weights * head.error(x)[..., 1]).sum(1)
    assert torch.allclose(loss.expectation, (expected - each).square(), rtol=1e-4)
    assert (loss.choice == 0).all()


def test_beyond_huber_an_error_grows_linearly() -> None:
    head, x, y = corner_head(1), features(), corners()
    labels = {"y": y, "k": torch.zeros(5, dtype=torch.int64)}
    prediction = head(x)
    distance = (prediction.mean[:, 0] - (y[:, 0] - 15.5) / 16.0).norm(dim=-1)
    huber = distance.median().item()
    cost = torch.where(distance < huber, distance.square(), 2 * huber * distance - huber**2)
    assert torch.allclose(head.loss(prediction, labels, huber).pose, cost.sum(1), rtol=1e-4)
    assert torch.allclose(head.loss(prediction, labels, 100.0).pose, head.loss(prediction, labels).pose)


def test_the_cheapest_equivalent_label_counts_for_each_image() -> None:
    head, x = corner_head(2), features()
    prediction, k = head(x), torch.tensor([0, 1, 0, 1, 1])
    y = corners(equivalents=3)
    own = prediction.mean.detach()[torch.arange(5), k] * 16.0 + 15.5  # what the network says, pixels
    best = torch.tensor([2, 0, 1, 2, 1])
    y[torch.arange(5), best] = own + 0.4
    loss = head.loss(prediction, {"y": y, "k": k})
    assert loss.choice.tolist() == best.tolist()
    assert torch.allclose(loss.pose, torch.full((5,), 8 * 2 * (0.4 / 16) ** 2), rtol=1e-3)
    for image in range(5):
        each = [head.loss(prediction, {"y": y[:, s : s + 1], "k": k}).pose[image] for s in range(3)]
        assert loss.pose[image] == min(each)
    # The expected error is that of the label that counts.
    chosen = head.loss(prediction, {"y": y[torch.arange(5), best][:, None], "k": k})
    assert torch.allclose(loss.expectation, chosen.expectation)


def test_a_symmetric_object_may_be_answered_either_way() -> None:
    """The Labeller's corners of a box under half a turn: a network that sees it turned makes no error."""
    crop, box = Crop(SIZE, 60.0), box_corners(np.array([-0.05, -0.03, -0.02]), np.array([0.05, 0.03, 0.02]))
    nothing = Mesh(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 3), np.uint8), np.zeros((0, 3), int))
    T = transform(exp_so3(np.array([0.7, -0.4, 0.2])), np.array([0.01, 0.0, 0.3]))
    turned = project(crop.K, apply(T @ HALF_TURN, box))
    for symmetries, cost in (((HALF_TURN,), 0.0), ((), 1.0)):
        assets = ObjectAssets(nothing, box, crop, symmetries=symmetries)
        y = torch.from_numpy(Labeller(assets, equivalents=2).label(crop.K, T))[None]
        prediction = Prediction(
            torch.from_numpy((turned - 15.5) / 16.0).float()[None, None, None], torch.ones(1, 1, 1), torch.zeros(1, 1)
        )
        loss = corner_head(1).loss(prediction, {"y": y, "k": torch.tensor([0])})
        assert loss.pose.item() < 1e-9 if cost == 0.0 else loss.pose.item() > 0.1
        assert loss.choice.item() == (1 if symmetries else 0)


def test_a_label_s_frame_takes_points_to_its_pose() -> None:
    """For a quarter turn, whose inverse is another one: a point of the object seen by the camera is that of the
    equivalent pose too, once it is in its frame."""
    quarter = transform(exp_so3(np.array([0.0, 0.0, np.pi / 2])), np.array([0.0, 0.01, 0.0]))
    crop, box = Crop(SIZE, 60.0), box_corners(np.full(3, -0.03), np.full(3, 0.03))
    nothing = Mesh(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 3), np.uint8), np.zeros((0, 3), int))
    labeller = Labeller(ObjectAssets(nothing, box, crop, 1, (quarter,)), equivalents=3)
    T = transform(exp_so3(np.array([0.7, -0.4, 0.2])), np.array([0.01, 0.0, 0.3]))
    points = np.random.default_rng(0).uniform(-0.03, 0.03, (5, 3))
    assert labeller.index == 1 and labeller.frames.shape == (3, 3, 4)
    for s, E, label in zip((np.eye(4), quarter, np.eye(4)), labeller.frames, labeller.label(crop.K, T), strict=True):
        in_frame = points @ E[:, :3].T + E[:, 3]
        np.testing.assert_allclose(apply(T @ s, in_frame), apply(T, points), atol=1e-6)
        np.testing.assert_allclose(label, project(crop.K, apply(T @ s, box)), atol=1e-4)


def test_decoded_numbers_are_in_the_contract_s_units() -> None:
    n, objects = 3, 2
    mean = torch.rand(n, 1, objects, 8, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    log_error = torch.tensor([[0.1, 0.2]]).repeat(n, 1).log()
    decoded = corner_head(objects).decode(Prediction(mean, torch.ones(n, 1, objects), log_error))
    assert torch.allclose(decoded["corners"], mean[:, 0] * 16.0 + 15.5)  # ±1 is the window's border
    assert torch.allclose(decoded["spread"][:, 0], torch.full((n, 8, 2), 1.6))
    assert torch.allclose(decoded["spread"][:, 1], torch.full((n, 8, 2), 3.2))

    joints, error = 2 * torch.rand(n, 1, 5, 1, 3) - 1, torch.rand(n, 5) + 0.1
    head = JointVotes(FEATURES, CELLS, hand_contract(5, SIZE, cube=0.3))
    decoded = head.decode(Prediction(joints, torch.ones(n, 1, 5), error.log()))
    assert torch.allclose(decoded["joints"], joints[:, 0, :, 0] * 0.15)  # metres
    assert torch.allclose(decoded["spread"], (error * 0.15)[..., None].expand(n, 5, 3))


def test_what_is_decoded_and_what_is_compared_are_the_same_points() -> None:
    """The loss of the decoded answer itself is zero, for corners and joints."""
    heads: list[tuple[Votes, Contract]] = [
        (corner_head(3), object_contract(SIZE, 3)),
        (JointVotes(FEATURES, CELLS, hand_contract(14, SIZE, cube=0.25)), hand_contract(14, SIZE, cube=0.25)),
    ]
    for head, contract in heads:
        prediction = head(features())
        points = head.decode(prediction)[contract.outputs[0].name].detach()
        k = torch.tensor([2, 0, 1, 1, 2])
        labels = {"y": points[torch.arange(5), k][:, None], "k": k} if contract.head == "corners" else {"y": points}
        assert head.loss(prediction, labels).pose.abs().max() < 1e-8


def test_joints_are_compared_in_three_dimensions_and_expect_their_own_errors() -> None:
    head, x = JointVotes(FEATURES, CELLS, hand_contract(14, SIZE, cube=0.3)), features()
    y = (torch.rand(5, 14, 3, generator=torch.Generator().manual_seed(3)) - 0.5) * 0.3  # metres
    prediction = head(x)
    assert prediction.weights.shape == (5, CELLS, 14) and prediction.log_error.shape == (5, 14)
    loss = head.loss(prediction, {"y": y})
    error = prediction.mean[:, :, 0] - y / 0.15
    assert torch.allclose(loss.pose, error.square().sum((1, 2)), rtol=1e-5)
    actual = 0.5 * error.square().mean(-1).log()  # of each joint
    assert torch.allclose(loss.expectation, (prediction.log_error - actual).square().mean(1), rtol=1e-4)
    loss.pose.sum().backward()
    assert rows_of(head.fc.weight.grad, 14) == [True] * 14
    one = JointVotes(FEATURES, CELLS, hand_contract(14, SIZE, cube=0.3))
    one(x).mean[:, 4].sum().backward()
    assert rows_of(one.fc.weight.grad, 14) == rows_of(one.confidence.weight.grad, 14) == [i == 4 for i in range(14)]


def test_presence_of_a_hand_is_learned_and_images_without_one_have_no_pose() -> None:
    """Joints that are NaN: the pose and its expected error cost nothing, and L_c asks for a low presence."""
    contract = hand_contract(14, SIZE, presence=True)
    head, x = JointVotes(FEATURES, CELLS, contract), features()
    y = 0.1 * torch.rand(5, 14, 3, generator=torch.Generator().manual_seed(3))
    y[2:4] = torch.nan
    there = torch.tensor([True, True, False, False, True])
    prediction = head(x)
    loss = head.loss(prediction, {"y": y})
    assert (loss.pose > 0).tolist() == (loss.expectation > 0).tolist() == there.tolist()
    loss.pose.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    decoded = head.decode(prediction)
    assert [k for k in decoded] == [x.name for x in contract.outputs] and decoded["presence"].shape == (5, 1)

    optimizer, answers = torch.optim.Adam(head.parameters(), lr=0.05), None
    for _ in range(60):
        prediction = head(x.detach())
        answers = Answers(x, {"y": y}, head.loss(prediction, {"y": y}), prediction)
        term = HandPresence.forward(None, Seen({}, None, answers, None, 0.0))  # type: ignore[arg-type]
        assert term is not None
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
    assert ((head.decode(head(x))["presence"][:, 0] > 0.5) == there).all()
    plain = JointVotes(FEATURES, CELLS, hand_contract(14, SIZE))
    answers = Answers(x, {"y": y}, plain.loss(plain(x), {"y": y}), plain(x))
    assert HandPresence.forward(None, Seen({}, None, answers, None, 0.0)) is None  # type: ignore[arg-type]


# L_p beside a symmetric object


def turned_answers(right: int) -> tuple[Answers, Tensor]:
    """Three images of an object that looks the same after half a turn about z, whose answer fits the equivalent label
    `right`; and the surface points (N, L, 3) in that frame."""
    generator = torch.Generator().manual_seed(5)
    points = 0.1 * torch.rand(3, CELLS, 3, generator=generator) - 0.05
    points[:, 1] = torch.nan  # a cell that does not show the object
    frames = torch.from_numpy(np.stack([np.eye(4)[:3], HALF_TURN[:3]])).float().repeat(3, 1, 1, 1)  # (N, S, 3, 4)
    y, k = corners(3, 2), torch.zeros(3, dtype=torch.int64)
    head = corner_head(1)
    votes = ((y[:, right] - 15.5) / 16.0)[:, None, None]  # one cell, one object
    prediction = Prediction(votes, torch.ones(3, 1, 1), torch.zeros(3, 1))
    labels = {"y": y, "k": k, "p": points, "e": frames}
    loss = head.loss(prediction, labels)
    assert loss.choice.tolist() == [right] * 3
    R = torch.from_numpy(HALF_TURN[:3, :3]).float()
    seen = points @ R.T if right else points
    shown = (~points[..., :1].isnan()).float()
    # Features that hold what the layer shall say.
    x = torch.cat([seen.nan_to_num() / SURFACE_SCALE, 40.0 * shown - 20.0, torch.zeros(3, CELLS, FEATURES - 4)], -1)
    return Answers(x, labels, loss, prediction), seen


@pytest.mark.parametrize("right", [0, 1])
def test_surface_points_are_those_of_the_symmetry_that_counts(right: int) -> None:
    """A layer that says the points in the frame of the chosen equivalent makes no error; in the other frame it does."""
    model = FeatureMapping(NetworkConfig(width=8, features=FEATURES), object_contract(SIZE))
    term = SurfacePoints(model, LossConfig(points=1.0))
    with torch.no_grad():
        term.layer.weight.copy_(torch.eye(4, FEATURES))
        nn.init.zeros_(term.layer.bias)
    answers, seen = turned_answers(right)
    assert term(Seen({}, None, answers, None, 0.0)).item() == pytest.approx(0.0, abs=1e-5)
    other, _ = turned_answers(1 - right)
    wrong = Answers(answers.features, other.labels, other.loss, other.prediction)
    # Half a turn about z: x and y change sign, z stays.
    miss = 2.0 * seen[..., :2].nan_to_num().abs().sum(-1) / SURFACE_SCALE
    shown = 3 * (CELLS - 1)
    assert term(Seen({}, None, None, wrong, 0.0)).item() == pytest.approx(miss.sum().item() / shown, rel=1e-4)


def test_h_answers_with_the_surface_of_the_object_asked_for() -> None:
    """Two objects in one network; images of the second: its points, presence and doubt alone learn, and are 0 where
    the answer is right."""
    head = SurfaceVotes(FEATURES, CELLS, object_contract(SIZE, 2, CELLS))
    model = FeatureMapping(NetworkConfig(width=8, features=FEATURES, surface=True), object_contract(SIZE, 2, CELLS))
    term = SurfacePoints(model, LossConfig(points=1.0))
    assert not list(term.parameters())
    x = features(3)
    points = torch.full((3, CELLS, 3), 0.02)
    points[:, 1] = torch.nan  # not shown
    labels = {"y": corners(3), "k": torch.ones(3, dtype=torch.int64), "p": points}
    prediction = head(x)
    loss = term(Seen({}, None, Answers(x, labels, head.loss(prediction, labels), prediction), None, 0.0))
    loss.backward()
    moved = head.surface.weight.grad.reshape(2, 4, -1).abs().sum((1, 2))
    assert moved[0] == 0 and moved[1] > 0 and head.doubt.weight.grad[0].abs().sum() == 0
    with torch.no_grad():
        head.surface.weight.zero_()
        head.surface.bias.copy_(torch.tensor([[9.0, 9, 9, 9], [0.4, 0.4, 0.4, 0.0]]).flatten())
        head.doubt.weight.zero_()
        head.doubt.bias.fill_(math.log(0.2))
    decoded = head.decode(head(x))
    assert decoded["points"].shape == (3, 2, CELLS, 3)
    assert torch.allclose(decoded["points"][:, 1], torch.full((3, CELLS, 3), 0.4 * SURFACE_SCALE))  # metres
    assert torch.allclose(decoded["doubt"], torch.full((3, 2, CELLS), 0.2 * SURFACE_SCALE))
    assert torch.allclose(decoded["presence"][:, 1], torch.full((3, CELLS), 0.5))
    points[:] = 0.3 * SURFACE_SCALE  # off by 0.1 in each coordinate, log of which is expected to be log 0.2
    prediction = head(x)
    seen = Seen({}, None, Answers(x, labels, head.loss(prediction, labels), prediction), None, 0.0)
    assert term(seen).item() == pytest.approx(math.log(2.0) + 3 * 0.1 + math.log(2.0) ** 2, rel=1e-3)
