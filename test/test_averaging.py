"""The mean of a network's weights over the latest part of its training."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")

from fm_pose_core.contract import object_contract
from fm_pose_core.learning.averaging import WeightAverage, mix
from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig


def model() -> FeatureMapping:
    return FeatureMapping(NetworkConfig(width=8, features=16), object_contract(32))


def average_of_steps(age: float, steps: int) -> float:
    """Of weights that are the number of their step."""
    latest = model()
    average = WeightAverage(latest, age)
    for step in range(1, steps + 1):
        with torch.no_grad():
            for p in latest.parameters():
                p.fill_(float(step))
        average.add(latest, step)
    values = torch.cat([p.flatten() for p in average.model.parameters()])
    assert (values == values[0]).all()
    return float(values[0])


@pytest.mark.parametrize("age", [0.05, 0.1, 0.3, 0.5])
def test_the_age_is_the_share_of_the_training_that_was_asked_for(age: float) -> None:
    for steps in (50, 200):
        assert average_of_steps(age, steps) == pytest.approx((1.0 - age) * steps, abs=1.01)


def test_what_it_began_with_is_forgotten_with_the_first_step() -> None:
    assert average_of_steps(0.1, 1) == 1.0


def test_it_is_a_network_of_its_own() -> None:
    """Which does not learn, and leaves the other as it is."""
    latest = model()
    before = {k: v.clone() for k, v in latest.state_dict().items()}
    average = WeightAverage(latest, 0.1)
    other = model()
    average.add(other, 1)
    assert all(torch.equal(v, before[k]) for k, v in latest.state_dict().items())
    assert all(torch.equal(v, dict(other.named_parameters())[k]) for k, v in average.model.named_parameters())
    assert not any(p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in latest.parameters())


def test_statistics_of_batch_normalisation_are_the_latest() -> None:
    """They are means already; those that it began with would be none at all."""
    latest = FeatureMapping(NetworkConfig("resnet50", width=8, features=16), object_contract(64))
    average = WeightAverage(latest, 0.1)
    latest.train()
    latest.f(torch.randn(4, 3, 64, 64) * 3.0 + 1.0)
    average.add(latest, 1)
    buffers = dict(latest.f.named_buffers())
    assert any("running_mean" in k for k in buffers)
    assert all(torch.equal(v, buffers[k]) for k, v in average.model.f.named_buffers())


def test_another_networks_weights_have_the_share_that_was_asked_for() -> None:
    """And stay as they are."""
    one, other = model(), model()
    before = [{k: v.clone() for k, v in x.named_parameters()} for x in (one, other)]
    mix(one, other, 0.25)
    for k, v in one.named_parameters():
        torch.testing.assert_close(v, 0.75 * before[0][k] + 0.25 * before[1][k])
    assert all(torch.equal(v, before[1][k]) for k, v in other.named_parameters())
