"""Where the hand is in a depth map, and what is cut out around it."""

import numpy as np
import pytest
import toy_hand

pytest.importorskip("pyrender", reason="rendering needs the extra [train]")
pytest.importorskip("skimage", reason="the hand's skin needs the extra [train]")

from fm_pose_core.hands.crop import HandCrop, HandCropConfig
from fm_pose_core.hands.locate import Search, SearchConfig, Tracked, centre_of_mass, find_hand, hand_near
from fm_pose_core.hands.model.prior import PoseConfig, PosePrior
from fm_pose_core.hands.model.skeleton import Skeleton, joint_sets
from fm_pose_core.hands.model.skin import SkinnedHand, build_skin
from fm_pose_core.simulation.hands import with_forearm
from fm_pose_core.types import Camera

CAMERA = Camera(np.array([[588.03, 0, 320], [0, 587.07, 240], [0, 0, 1]]), 640, 480)
NYU14 = joint_sets()["nyu14"]


@pytest.fixture(scope="module")
def hand() -> SkinnedHand:
    return build_skin(Skeleton(), faces=2500)


def ball(center: tuple[float, float, float], radius: float, behind: float = 1.4) -> np.ndarray:
    """Before a wall."""
    return toy_hand.toy_depth(CAMERA, np.array(center), radius, behind)


def test_the_cube_fills_the_window_and_joints_go_back() -> None:
    crop, center = HandCrop(HandCropConfig(128, 0.3)), np.array([0.1, -0.05, 0.7])
    window = crop.cut(ball(tuple(center), 0.06), CAMERA, center)
    assert window.shape == (128, 128) and window.dtype == np.float32 and window.min() >= -1 and window.max() == 1.0
    seen = np.argwhere(window < 1)
    radius = 0.06 / 0.3 * 128 / np.sqrt(1 - (0.06 / 0.7) ** 2)
    np.testing.assert_allclose(seen.mean(0), 63.5, atol=1.5)
    assert np.ptp(seen, axis=0) / 2 == pytest.approx(radius, abs=2)
    assert window[63:65, 63:65].min() == pytest.approx(-0.06 / 0.15, abs=0.02)


def test_holes_and_what_lies_outside_the_cube_are_background() -> None:
    crop = HandCrop(HandCropConfig(32, 0.3))
    values = np.array([0.0, np.nan, 0.7, 0.7 + 0.16, 0.7 - 0.16, 0.7 + 0.075], np.float32)
    np.testing.assert_allclose(crop.normalise(values, 0.7), [1, 1, 0, 1, 1, 0.5], atol=1e-6)


@pytest.mark.parametrize("size", [(320, 240), (640, 480), (848, 480), (1299, 975)])
def test_a_finer_image_gives_the_same_hand(size: tuple[int, int]) -> None:
    """A hand with a wall close behind it, which is larger than the cube and so taken out, up to its edges."""
    scale = size[1] / 480
    camera = Camera(np.array([[588 * scale, 0, size[0] / 2], [0, 588 * scale, size[1] / 2], [0, 0, 1]]), *size)
    depth = np.minimum(toy_hand.toy_depth(camera, np.array([0.1, 0.0, 0.6]), 0.05, 0.66), np.float32(0.66))
    (hand,) = find_hand(depth, camera)
    np.testing.assert_allclose(hand.center, [0.1, 0.0, 0.57], atol=0.01)
    for seen, least, most in ((depth, 0.5, 1.0), (hand.depth, 0.0, 0.03)):  # there, the pixels at its edge alone
        window = HandCrop().cut(seen, camera, hand.center)
        assert least <= (np.abs(window * 0.15 + hand.center[2] - 0.66) < 1e-3).mean() <= most
    assert (hand.depth[:, -3:] == 0).all() and (hand.depth[-3:] == 0).all()


@pytest.mark.parametrize("size", [(640, 1), (1, 640)])
def test_an_image_of_a_few_rows_shows_no_hand(size: tuple[int, int]) -> None:
    camera = Camera(np.array([[588.0, 0, 0], [0, 588.0, 0], [0, 0, 1]]), *size)
    assert find_hand(np.full(size[::-1], 0.6, np.float32), camera) == []


def test_the_nearest_large_blob_is_the_hand() -> None:
    depth = np.minimum(ball((0.15, 0.0, 0.6), 0.05), ball((-0.2, 0.0, 1.0), 0.12))
    depth[10:14, 10:14] = 0.3  # small and near: noise
    (hand,) = find_hand(depth, CAMERA)
    np.testing.assert_allclose(hand.center[:2], [0.15, 0.0], atol=0.01)
    assert 0.54 < hand.center[2] < 0.61
    assert find_hand(np.full_like(depth, 2.0), CAMERA) == find_hand(np.zeros_like(depth), CAMERA) == []
    (far,) = find_hand(depth, CAMERA, SearchConfig(nearest=0.8))
    assert far.center[0] < -0.1
    named = hand_near(depth, CAMERA, np.array([[-0.15, 0.03, 1.0]]))
    assert named is not None and named.center[0] < -0.1
    abreast = find_hand(np.minimum(depth, ball((0.0, 0.2, 0.65), 0.05)), CAMERA)
    assert [c.center[1] > 0.1 for c in abreast] == [False, True]


def test_a_body_close_behind_does_not_draw_the_window_away() -> None:
    """A ball 10 cm before a wall that is much larger: the centre stays, and the wall is no part of the window."""
    wall = np.full((480, 640), 0.8, np.float32)
    hand, *_ = find_hand(np.minimum(ball((0.05, 0.0, 0.65), 0.05), wall), CAMERA)
    np.testing.assert_allclose(hand.center, [0.05, 0.0, 0.62], atol=0.015)
    window = HandCrop().cut(hand.depth, CAMERA, hand.center)
    ball_alone = HandCrop().cut(ball((0.05, 0.0, 0.65), 0.05), CAMERA, hand.center)
    assert ((window < 1) != (ball_alone < 1)).mean() < 0.03  # what is left of the wall is a rim beside the edge
    assert hand_near(np.zeros_like(wall), CAMERA, np.tile([0.05, 0.0, 0.62], (14, 1))) is None
    beyond = ball((0.05, 0.0, 1.42), 0.05, behind=1.53)  # the wall is out of the depth range, and in the cube
    hand, *_ = find_hand(beyond, CAMERA)
    assert (HandCrop().cut(hand.depth, CAMERA, hand.center) < 1).mean() < 0.3


@pytest.mark.parametrize("gap", [0.03, 0.05, 0.1])
@pytest.mark.parametrize("arm", [False, True])
def test_near_its_joints_the_hand_is_found_before_a_body(gap: float, arm: bool, hand: SkinnedHand) -> None:
    """However close the body is, and whatever hangs on the hand."""
    from fm_pose_core.rendering.renderer import DepthRenderer

    skin = with_forearm(hand) if arm else hand
    pose = PosePrior(hand.skeleton, PoseConfig(aside=8.0)).draw(np.random.default_rng(3))
    pose[3:6] = [0.0, 0.0, 0.6]
    renderer = DepthRenderer(len(skin.vertices), skin.faces, 640, 480)
    alone = renderer.render(skin.posed(pose), CAMERA.K)
    renderer.close()
    joints = hand.skeleton.points(pose[None], *hand.skeleton.on_bones(NYU14))[0]
    found = hand_near(np.where(alone > 0, alone, np.float32(alone.max() + gap)), CAMERA, joints)
    assert found is not None
    window, wanted = (HandCrop().cut(d, CAMERA, found.center) < 1 for d in (found.depth, alone))
    assert (window & wanted).sum() > 0.98 * wanted.sum() and (window & ~wanted).mean() < 0.04
    assert np.linalg.norm(found.center - joints.mean(0)) < 0.05


def test_both_ends_of_an_arm_may_be_the_hand() -> None:
    v, u = np.mgrid[:480, :640]
    x, y = (u - 320) / 588.03 * 0.7, (v - 240) / 587.07 * 0.7
    along, across = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    arm = np.where((np.abs(along) < 0.2) & (np.abs(across) < 0.04), 0.7, 2.0).astype(np.float32)  # 40 cm long
    places = sorted((c.center for c in find_hand(arm, CAMERA)), key=lambda center: float(center[0]))
    inside = (0.2 - 0.09) / np.sqrt(2)  # the middle of the last 18 cm
    # All of it is nearest.
    np.testing.assert_allclose(places, [[-inside, -inside, 0.7], [0.0, 0.0, 0.7], [inside, inside, 0.7]], atol=0.006)
    arm[(arm < 1) & (along > 0.1)] = 0.58
    arm[(arm < 1) & (along <= 0.1)] -= np.float32(0.6) * (along + 0.1)[(arm < 1) & (along <= 0.1)].astype(
        np.float32
    ).clip(0)
    front = min((c.center for c in find_hand(arm, CAMERA)), key=lambda center: float(center[2]))
    assert front[2] < 0.6 and front[0] > 0.05
    arm = np.where(arm < 1, np.float32(0.7), arm)
    near = hand_near(arm, CAMERA, np.array([[0.1, 0.1, 0.7]]))
    assert near is not None and near.center[0] > 0.05


def test_a_tracked_hand_is_taken_without_a_choice() -> None:
    """Of the ends of an arm, and of two things side by side, the one where it has just been; if it is gone, all."""
    v, u = np.mgrid[:480, :640]
    x, y = (u - 320) / 588.03 * 0.7, (v - 240) / 587.07 * 0.7
    along, across = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    arm = np.where((np.abs(along) < 0.2) & (np.abs(across) < 0.04), 0.7, 2.0).astype(np.float32)  # 40 cm long
    end = np.array([0.08, 0.08, 0.7])
    for last in (end, -end * [1, 1, -1]):
        (hand,) = Tracked(Search(), last + np.array([0.03, -0.03, 0.0])).locate(arm, CAMERA)
        assert np.linalg.norm(hand.center - last) < 0.03
    for step in (0.03, 0.06, 0.09):  # since the last depth map: the cube does not lag behind
        (hand,) = Tracked(Search(), np.array([0.02 - step, 0.0, 0.55])).locate(ball((0.02, 0.0, 0.6), 0.07), CAMERA)
        assert abs(hand.center[0] - 0.02) < 0.004
    two = np.minimum(ball((0.15, 0.0, 0.6), 0.05), ball((-0.15, 0.0, 0.65), 0.05))
    (hand,) = Tracked(Search(), np.array([-0.13, 0.02, 0.66])).locate(two, CAMERA)
    np.testing.assert_allclose(hand.center[:2], [-0.15, 0.0], atol=0.01)
    for depth, last in ((two, [0.0, 0.3, 0.6]), (arm, [0.0, 0.0, 1.2]), (np.zeros_like(arm), end)):
        found, all_of_them = Tracked(Search(), np.array(last)).locate(depth, CAMERA), find_hand(depth, CAMERA)
        assert [tuple(c.center) for c in found] == [tuple(c.center) for c in all_of_them]


def test_gaps_of_a_pixel_part_nothing() -> None:
    whole = ball((0.0, 0.0, 0.6), 0.07)
    parted = whole.copy()
    parted[:, 318:320] = 0
    (a,), (b,) = find_hand(whole, CAMERA), find_hand(parted, CAMERA)
    np.testing.assert_allclose(a.center, b.center, atol=0.003)
    for nothing in (np.inf, np.nan, 0.0):
        holes = np.where(whole < 1, whole, np.float32(nothing))
        with np.errstate(all="raise"):
            (c,) = find_hand(holes, CAMERA)
            np.testing.assert_allclose(centre_of_mass(holes, CAMERA, c.center), c.center, atol=0.01)
        np.testing.assert_allclose(a.center, c.center, atol=0.003)
        holes[:, 318] = nothing
        (c,) = find_hand(holes, CAMERA)
        np.testing.assert_allclose(a.center, c.center, atol=0.003)
    assert centre_of_mass(whole, CAMERA, np.array([0.0, 0.0, -0.1])) is None
    for shape in ((1, 1), (1, 7), (7, 1)):
        assert find_hand(np.ones(shape, np.float32), CAMERA) == []


def test_centre_of_mass_moves_to_the_hand() -> None:
    center = centre_of_mass(ball((0.1, 0.05, 0.7), 0.05), CAMERA, np.array([0.14, 0.02, 0.72]))
    np.testing.assert_allclose(center[:2], [0.1, 0.05], atol=0.006)
