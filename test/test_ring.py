"""The ring of what several samples share."""

import numpy as np
import pytest

from fm_pose_core.learning.ring import Ring


def run(ring: "Ring[int]", draws: int) -> tuple[list[int], int]:
    """What is drawn, and how many were made for it."""
    made, drawn = 0, []
    for _ in range(draws):
        if ring.wants_more():
            ring.add(made)
            made += 1
        drawn.append(ring.draw())
    return drawn, made


@pytest.mark.parametrize(("uses", "made"), [(1, 400), (4, 16 + 384 // 4)])
def test_each_new_one_stands_for_some_draws(uses: int, made: int) -> None:
    """Until there are 16 each draw has a new one."""
    drawn, count = run(Ring(32, uses, np.random.default_rng(0)), 400)
    assert abs(count - made) <= 1 and len(set(drawn)) > 0.4 * count


def test_the_oldest_go_and_no_more_than_its_size_are_kept() -> None:
    ring: Ring[int] = Ring(8, 2, np.random.default_rng(0))
    drawn, count = run(ring, 1000)
    assert len(ring.kept) == 8 and count > 400
    assert min(ring.kept) > count - 80 and min(drawn[-100:]) > count - 160


def test_the_same_seed_draws_the_same() -> None:
    a, b, c = (run(Ring(16, 3, np.random.default_rng(seed)), 200)[0] for seed in (1, 1, 2))
    assert a == b != c
