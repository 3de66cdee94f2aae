"""f, g, h as published, the losses of Eq. 1–4, and which network receives which gradient."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")

from torch import nn

from fm_pose_core.contract import Contract, object_contract
from fm_pose_core.errors import InputError
from fm_pose_core.learning.adaptation import METHODS
from fm_pose_core.learning.extractors import EXTRACTORS, Extractor
from fm_pose_core.learning.heads import HeadLoss, Prediction
from fm_pose_core.learning.losses import Answers, LossConfig, MappedFeatures, Objective, Seen, SyntheticPose
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig, build_fused
from fm_pose_core.tasks import load_bundle


def random_batch(size: int = 32, n: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = {
        k: torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=generator)
        for k in ("x_s", "x_r", "x_m")
    }
    batch |= {k: torch.rand(n, 1, 8, 2, generator=generator) * size for k in ("y_s", "y_r")}
    batch |= {k: torch.zeros(n, dtype=torch.int64) for k in ("k_s", "k_r")}
    return batch | {k: torch.rand(n, (size // 16) ** 2, 3, generator=generator) - 0.5 for k in ("p_s", "p_r", "p_m")}


def objective_of(model: FeatureMapping, config: LossConfig | None = None) -> Objective:
    """Of the paper's method."""
    return Objective(model, config or LossConfig(), METHODS["feature_mapping"].terms)


def test_the_published_network_has_the_published_layers() -> None:
    model = FeatureMapping(NetworkConfig(extractor="vgg16"), object_contract())
    assert [m.out_channels for m in model.f.modules() if isinstance(m, nn.Conv2d)] == [
        64,
        64,
        128,
        128,
        256,
        256,
        256,
        512,
        512,
        512,
    ]

    def linear(module):
        return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]

    assert linear(model.f) == [(512 * 8 * 8, 1024), (1024, 1024)]
    assert linear(model.g) == [(1024, 1024)] * 4  # two residual blocks
    assert linear(model.h) == [(1024, 16), (1024, 1)]  # the corners, and the error to expect


@pytest.mark.parametrize(
    ("extractor", "features"),
    [
        ("compact", (16, 256)),
        ("fine", (64, 256)),
        ("efficientnet_lite0", (64, 256)),
        ("efficientnet_lite0_whole", (64, 256)),
        ("compact_global", (1, 1024)),
        ("vgg16", (1, 1024)),
    ],
)
def test_shapes(extractor: str, features: tuple[int, int]) -> None:
    model = FeatureMapping(NetworkConfig(extractor=extractor), object_contract(64))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert model.f(FeatureMapping.normalise(images)).shape == (2, *features)
    corners, spread = Fused(model)(images)
    assert corners.shape == spread.shape == (2, 1, 8, 2)
    assert (spread > 0).all()


def test_g_starts_as_the_identity_on_features() -> None:
    model = FeatureMapping(NetworkConfig(), object_contract())
    features = torch.rand(2, 64, 256)
    assert torch.equal(model.g(features), features)


def test_one_cell_gives_equation_2_and_3() -> None:
    model = FeatureMapping(NetworkConfig(extractor="compact_global", width=8), object_contract(32))
    batch = random_batch()
    losses = objective_of(model)(batch)
    f, g, h = (lambda x: model.f(FeatureMapping.normalise(x))[:, 0]), model.g, model.h.fc
    target = lambda y: ((y - 15.5) / 16.0).flatten(1)  # noqa: E731
    x = torch.cat([batch["x_s"], batch["x_m"]])
    y = torch.cat([batch["y_s"], batch["y_r"]])
    assert losses["L_hS"].item() == pytest.approx((h(f(x)) - target(y)).square().sum(1).mean().item(), rel=1e-4)
    assert losses["L_hR"].item() == pytest.approx(
        (h(g(f(batch["x_r"]))) - target(batch["y_r"])).square().sum(1).mean().item(), rel=1e-4
    )
    assert losses["L_g"].item() == pytest.approx(
        (g(f(batch["x_r"])) - f(batch["x_m"])).square().sum(1).mean().item(), rel=1e-4
    )
    assert losses["L"].item() == pytest.approx(
        (losses["L_hS"] + losses["L_hR"] + 0.2 * losses["L_g"] + losses["L_u"]).item(), rel=1e-6
    )


def test_the_mapping_is_compared_where_there_are_pairs() -> None:
    """T^R may hold more than T^M: L_g is that of the first pairs, L_hR that of all real images."""
    model = FeatureMapping(NetworkConfig(width=8, features=32), object_contract(32))
    objective = objective_of(model)
    batch = random_batch()
    some = {**batch, "x_m": batch["x_m"][:2], "p_m": batch["p_m"][:2]}
    first = {k: v[:2] for k, v in batch.items()}
    assert objective(some)["L_g"].item() == pytest.approx(objective(first)["L_g"].item(), rel=1e-4)
    assert objective(some)["L_hR"].item() == pytest.approx(objective(batch)["L_hR"].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "reaches"), [("L_hS", "fh"), ("L_hR", "fgh"), ("L_g", "fg"), ("L_u", "h"), ("L_p", "fg"), ("L_f", "f")]
)
def test_which_network_receives_which_gradient(loss: str, reaches: str) -> None:
    model = FeatureMapping(NetworkConfig(width=8, features=32), object_contract(32))
    for block in model.g.blocks:  # away from the zero start, so that gradient reaches all of g
        nn.init.normal_(block[2].weight, std=0.1)
    objective_of(model, LossConfig(points=1.0, size=1.0))(random_batch())[loss].backward()
    touched = {
        name
        for name in "fgh"
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(model, name).parameters())
    }
    assert touched == set(reaches)
    trained = {name for name, p in model.h.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert not trained or (trained == {"error.weight", "error.bias"}) == (loss == "L_u")


def test_features_are_as_large_as_they_are_whatever_kind_of_image_they_are_of() -> None:
    model = FeatureMapping(NetworkConfig(width=8, features=32), object_contract(32))
    batch = random_batch()
    losses = objective_of(model, LossConfig(size=0.5))(batch)
    features = [model.f(FeatureMapping.normalise(batch[k])) for k in ("x_s", "x_m", "x_r")]
    assert losses["L_f"].item() == pytest.approx(torch.cat(features).square().mean().item(), rel=1e-4)
    assert "L_f" not in objective_of(model)(batch)


def test_the_dense_task_needs_cells() -> None:
    model = FeatureMapping(NetworkConfig(extractor="compact_global", width=8), object_contract(32))
    with pytest.raises(InputError, match=r"loss\.points: expected 0 for compact_global"):
        objective_of(model, LossConfig(points=1.0))


def test_the_target_of_the_mapping_can_be_held() -> None:
    """With target_gradient off, L_g's gradient is that of a constant target."""
    gradients = []
    for target_gradient in (True, False):
        torch.manual_seed(0)
        model = FeatureMapping(NetworkConfig(width=8, features=32), object_contract(32))
        objective_of(model, LossConfig(target_gradient=target_gradient))(random_batch())["L_g"].backward()
        gradients.append(model.f.project.weight.grad.clone())
    torch.manual_seed(0)
    model = FeatureMapping(NetworkConfig(width=8, features=32), object_contract(32))
    batch = random_batch()
    with torch.no_grad():
        target = model.f(FeatureMapping.normalise(batch["x_m"]))
    (model.g(model.f(FeatureMapping.normalise(batch["x_r"]))) - target).square().sum(-1).mean().backward()
    assert torch.allclose(gradients[1], model.f.project.weight.grad, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)


def test_a_normalised_mapping_loss_does_not_know_the_scale_of_the_features() -> None:
    losses = []
    for scale in (1.0, 3.0):
        torch.manual_seed(0)
        model = FeatureMapping(NetworkConfig(width=8, features=32), object_contract(32))
        with torch.no_grad():
            model.f.project.weight.mul_(scale)
        losses.append(objective_of(model, LossConfig(feature_variance=10.0))(random_batch())["L_g"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_normalised_mapping_loss_weighs_the_object_against_the_background() -> None:
    """The share of the variance in the cells that show the object, which the mapping leaves there, and elsewhere;
    whatever the variance of the background is, and however many pairs a batch has."""
    torch.manual_seed(0)
    model = FeatureMapping(NetworkConfig(width=8), object_contract(32))
    term = MappedFeatures(model, LossConfig(feature_variance=2.0))

    def loss(target: torch.Tensor, mapped: torch.Tensor, points: torch.Tensor) -> float:
        every = torch.cat([torch.zeros(1, 4, 3), points])  # of an image of T^S, and of x_m
        answers = Answers(
            torch.zeros(0), {"p": every}, HeadLoss(*[torch.zeros(0)] * 3), Prediction(*[torch.zeros(0)] * 3)
        )
        return term(Seen({"x_m": target}, mapped, answers, None, 0.0)).item()

    points = torch.zeros(400, 4, 3)
    points[::2, 2], points[:, 3] = torch.nan, torch.nan  # cells of the background
    background = points[..., :1].isnan()
    target, noise = torch.randn(400, 4, 8), torch.randn(400, 4, 8)
    error = torch.where(background, 0.1 * noise, 0.3 * noise)
    want = 2.0 * (0.3**2 + 0.1**2) / 2
    assert loss(target, target + error, points) == pytest.approx(want, rel=0.05)
    other = torch.where(background, 100.0 * target, target)
    assert loss(other, other + error, points) == pytest.approx(want, rel=0.05)
    few = [loss(*(x[i : i + 3] for x in (target, target + error, points))) for i in range(0, 396, 3)]
    assert np.median(few) == pytest.approx(want, rel=0.1)
    assert loss(target, target + error, torch.zeros_like(points)) == pytest.approx(
        2.0 * error.square().mean().item(), rel=0.05
    )
    assert loss(target, target + error, torch.full_like(points, torch.nan)) == 0.0


def test_images_whose_pose_h_expects_to_know_well_count_more() -> None:
    log = torch.tensor([-4.0, -3.0, -3.0, -1.5, 9.0], requires_grad=True)  # of expected errors; the last is an outlier
    pose = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    nothing = torch.zeros(5)
    answers = Answers(nothing[:, None, None], {}, HeadLoss(pose, nothing, nothing.long(), log), None)
    error = (log - log.mean()).clamp(-2.0, 2.0).exp().detach()
    assert error[-1] < 8.0
    for sure in (0.5, 1.0):
        weights = answers.weights(sure)
        assert not weights.requires_grad  # h does not learn to expect errors in order to lose less
        ratio = weights * error**sure
        assert torch.allclose(ratio, ratio[:1].expand(5))
        assert (weights * error).mean().item() == pytest.approx(error.mean().item(), rel=1e-5)
    term = SyntheticPose(FeatureMapping(NetworkConfig(width=8), object_contract(32)), LossConfig(sure=1.0))
    assert term(Seen({}, None, answers, None, 0.0)).item() == pytest.approx((weights * pose).mean().item())
    absent = answers.loss._replace(expected=log.detach().masked_fill(log < -3.5, torch.nan))  # a hand that is not there
    some = Answers(nothing, {}, absent, None).weights(1.0)
    others = HeadLoss(pose[1:], nothing[1:], nothing[1:].long(), log[1:])
    assert some[0] == 1.0 and torch.allclose(some[1:], Answers(nothing[1:], {}, others, None).weights(1.0))
    unknown = answers.loss._replace(expected=None)
    for same in (answers.weights(0.0), Answers(nothing, {}, unknown, None).weights(1.0)):
        assert same.tolist() == [1.0] * 5


def test_votes_are_relative_to_their_cells() -> None:
    model = FeatureMapping(NetworkConfig(width=8), object_contract(64))
    for parameter in model.h.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(model.h.error.bias, math.log(0.25))
    votes, weights, log_error, *_ = model.h(torch.zeros(1, 16, 256))
    assert torch.allclose(votes[0, :, 0, 0, 0].reshape(4, 4)[1], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    assert torch.allclose(weights, torch.full((1, 16, 1), 1 / 16))
    assert torch.allclose(log_error.exp(), torch.tensor([[0.25]]))
    corners, spread = Fused(model)(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    # Even votes: the window's middle, pixel (31.5, 31.5).
    assert torch.allclose(corners, torch.full_like(corners, 31.5))
    assert torch.allclose(spread, torch.full_like(spread, 32 * 0.25))


def test_vgg_weights_from_a_state_dict(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The adapted first layer answers to our input as the published one does to torchvision's."""
    network = FeatureMapping(NetworkConfig(extractor="vgg16"), object_contract(32)).f
    published = {f"features.{k}": torch.randn_like(v) * 0.05 for k, v in network.features.state_dict().items()}
    torch.save(published, tmp_path / "vgg.pth")
    network.load_weights(str(tmp_path / "vgg.pth"))
    image = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    theirs = (image.permute(0, 3, 1, 2) / 255.0 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    want = nn.functional.conv2d(theirs, published["features.0.weight"], published["features.0.bias"])
    got = nn.functional.conv2d(FeatureMapping.normalise(image), network.features[0].weight, network.features[0].bias)
    assert torch.allclose(got, want, atol=1e-3)
    assert torch.equal(network.features[21].weight, published["features.21.weight"])
    del published["features.7.bias"]
    torch.save(published, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"features\.7\.bias"):
        network.load_weights(str(tmp_path / "broken.pth"))


def efficientnet_lite0() -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of the published one, and random numbers."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, shape: tuple[int, int, int, int]) -> None:
        state[f"{conv}.weight"] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
        for name in ("weight", "running_var"):
            state[f"{norm}.{name}"] = torch.rand(shape[0]) + 0.5
        for name in ("bias", "running_mean"):
            state[f"{norm}.{name}"] = torch.randn(shape[0]) * 0.1

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    inputs, kernels = 32, (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5)
    for i, outputs in enumerate((16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112)):
        inner = inputs * (6 if i else 1)
        if i:
            layer(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", (inner, inputs, 1, 1))
        layer(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", (inner, 1, kernels[i], kernels[i]))
        layer(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", (outputs, inner, 1, 1))
        inputs = outputs
    return state


def test_efficientnet_answers_as_published(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Its layers are the published ones, batch normalisation folded, TensorFlow's padding and input kept."""
    state = efficientnet_lite0()
    torch.save(state, tmp_path / "lite.pth")
    f = FeatureMapping(NetworkConfig("efficientnet_lite0", weights=str(tmp_path / "lite.pth")), object_contract(32)).f

    def layer(x: torch.Tensor, conv: str, norm: str, stride: int = 1, bounded: bool = True) -> torch.Tensor:
        weight = state[f"{conv}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        pad = (math.ceil(size / stride) - 1) * stride + kernel - size  # "SAME": the odd pixel below and to the right
        x = nn.functional.pad(x, (pad // 2, pad - pad // 2) * 2)
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = nn.functional.conv2d(x, weight, stride=stride, groups=groups)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        x = nn.functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)
        return x.clamp(0, 6) if bounded else x

    image = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    want = layer((image.permute(0, 3, 1, 2) - 127.0) / 128.0, "_conv_stem", "_bn0", 2)
    got = nn.functional.relu6(f.stem(FeatureMapping.normalise(image)))
    assert torch.allclose(got[..., :-1, :-1], want[..., :-1, :-1], atol=1e-4)  # the border sees 127.5 in place of 127
    x = want
    for i, block in enumerate(f.blocks):
        name, stride = f"_blocks.{i}", 2 if i in (1, 3, 5) else 1
        y = layer(x, f"{name}._expand_conv", f"{name}._bn0") if i else x
        y = layer(y, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        y = layer(y, f"{name}._project_conv", f"{name}._bn2", bounded=False)
        want = x + y if y.shape == x.shape else y
        assert torch.allclose(block(x), want, atol=1e-4), i
        x = want
    learned = {k.split(".")[1] for k, p in f.named_parameters() if p.requires_grad and k.startswith("blocks.")}
    assert learned == {str(i) for i in range(3, 11)}
    assert not f.stem.weight.requires_grad
    assert {id(p) for p in f.gentle()} == {id(p) for p in f.blocks[3:].parameters()}
    del state["_blocks.7._bn1.bias"]
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"_blocks\.7\._bn1\.bias"):
        f.load_weights(str(tmp_path / "broken.pth"))


def test_layers_that_never_learn_are_not_left_at_random() -> None:
    """A bundle with another f has a layer that fits by chance; the fixed ones it lacks."""
    bundle = Path(__file__).parent.parent / "models" / "duck"
    config = NetworkConfig("efficientnet_lite0", features=256, weights=str(bundle))
    with pytest.raises(InputError, match=r"weights to begin with, of an f like efficientnet_lite0"):
        FeatureMapping(config, object_contract(64))


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(InputError, match=r"architecture\.layers"):
        build_fused({"extractor": "compact", "layers": 3}, object_contract())


def test_an_extractor_is_a_class_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entered into the registry, it trains and votes like the others; what it does not know of is refused by name."""

    class Pooled(Extractor):
        def __init__(self, channels: int, size: int, width: int, features: int, depth: int) -> None:
            super().__init__(channels, size, width, features, depth)
            self.cells, self.feature_size = 4, features
            self.layer = nn.Linear(channels, features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(nn.functional.adaptive_avg_pool2d(x, 2).flatten(2).transpose(1, 2)).relu()

    monkeypatch.setitem(EXTRACTORS, "pooled", Pooled)
    config = NetworkConfig(extractor="pooled", features=16)
    losses = objective_of(FeatureMapping(config, object_contract(32)))(random_batch())
    assert {"L_hS", "L_hR", "L_g", "L_u", "L"} == set(losses) and losses["L"].isfinite()
    contract: Contract = object_contract(32)
    with pytest.raises(InputError, match=r"weights to begin with: expected a bundle's folder for Pooled"):
        FeatureMapping(NetworkConfig(extractor="pooled", features=16, weights="torchvision"), contract)


@pytest.mark.parametrize("name", ["tugboat", "lmo"])
def test_a_wider_network_begins_as_the_narrower_one(name: str) -> None:
    """It answers the same, and its new channels learn."""
    folder = Path(__file__).parent.parent / "models" / name
    stored = load_bundle(folder).manifest.network
    contract, architecture = stored.contract, {k: v for k, v in stored.architecture.items() if k != "size"}
    narrow = {**architecture, "weights": str(folder)}
    wide = {**narrow, "width": narrow["width"] + 8, "features": 2 * narrow["features"]}
    images = torch.randint(0, 256, (2, *contract.image_shape), dtype=torch.uint8)
    models = [FeatureMapping(NetworkConfig(**x), contract) for x in (narrow, wide)]
    for want, got in zip(*(Fused(m)(images) for m in models), strict=True):
        assert torch.allclose(got, want, atol=1e-3)
    features = models[1].f(FeatureMapping.normalise(images))
    assert (features[..., narrow["features"] :] > 0).any()
    models[1].h(models[1].g(features)).votes.sum().backward()
    assert (models[1].h.fc.weight.grad[:, narrow["features"] :] != 0).any()


def test_a_deeper_network_begins_as_the_shallower_one() -> None:
    """It answers the same, and its new blocks learn."""
    folder = Path(__file__).parent.parent / "models" / "lmo"
    stored = load_bundle(folder).manifest.network
    contract, architecture = stored.contract, {**stored.architecture, "weights": str(folder)}
    deeper = NetworkConfig(**{**architecture, "depth": architecture.get("depth", 1) + 1})
    images = torch.randint(0, 256, (2, *contract.image_shape), dtype=torch.uint8)
    models = [FeatureMapping(x, contract) for x in (NetworkConfig(**architecture), deeper)]
    for want, got in zip(*(Fused(m)(images) for m in models), strict=True):
        assert torch.allclose(got, want, atol=1e-3)
    models[1].h(models[1].g(models[1].f(FeatureMapping.normalise(images)))).votes.sum().backward()
    newest = models[1].f.deeper[-1]
    assert (newest.conv2.weight.grad != 0).any() and (newest.conv1.weight.grad == 0).all()  # until conv2 has learned
