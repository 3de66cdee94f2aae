"""The refiner that finds the drawn model's points in the photograph: labels that are true, and the pose that they lead
to."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")
pytest.importorskip("embreex", reason="refinement needs embreex (pip install '.[refine]')")

from rendered_bop import CAMERA, box_mesh

from fm_pose_core.contract import flow_contract
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, inverse, log_so3, project, transform
from fm_pose_core.learning.heads import HEADS
from fm_pose_core.objects.comparison.flow import FlowRefiner
from fm_pose_core.objects.comparison.samples import ComparedRenderings
from fm_pose_core.objects.crop import Crop, cell_middles
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.samples import ObjectAssets, SyntheticConfig
from fm_pose_core.objects.surroundings import Surroundings
from fm_pose_core.objects.viewpoints import ViewpointConfig
from fm_pose_core.rendering.appearance import AppearanceConfig
from fm_pose_core.rendering.backgrounds import Backgrounds
from fm_pose_core.rendering.raycaster import Raycaster

pytestmark = pytest.mark.usefixtures("one_thread")
MESH = box_mesh()
CORNERS = box_corners(*MESH.box) + 0.0
CENTER = CORNERS.mean(0)
SIZE, SIDE, FILL = 64, 8, 0.45
CROP = Crop.around(0.13, 0.4, size=SIZE)
PLAIN = AppearanceConfig(light=0.0, repaint=0.0, occluders=0.0, colour=0.0, blur=0.0, noise=0.0)
LOOK = Look(np.zeros((1, SIZE, SIZE, 3), np.uint8), CAMERA, np.eye(3), lambda: np.full((240, 320, 3), 60, np.uint8))


@pytest.fixture(scope="module")
def samples() -> ComparedRenderings:
    """Of the box, on black."""
    rng = np.random.default_rng(2)
    assets = ObjectAssets(MESH, CORNERS, CROP, 0, fill=FILL)
    around = Surroundings(Backgrounds([np.zeros((8, 8, 3), np.uint8)], SIZE, rng, 0.0))
    config = SyntheticConfig(ViewpointConfig(distance=(0.3, 0.6), in_plane=45.0), PLAIN)
    made = ComparedRenderings(assets, config, around, rng)
    made.estimates.cells = SIDE**2
    return made


def test_the_label_says_where_the_drawn_points_are_seen(samples: ComparedRenderings) -> None:
    """The colour there, in the photograph, is that of the face which the unlit model shows in the cell."""
    alike, moved = [], []
    for _ in range(24):
        window, flow = samples.draw()
        assert window.shape == (SIZE, SIZE, 6) and flow.shape == (SIDE**2, 2)
        guess, turn = samples.estimates._shown
        T = transform(turn @ guess.R_window_view, np.zeros(3)) @ guess.T_view_object
        drawn, _ = Raycaster(MESH, guess.crop.K, SIZE, SIZE).render(T)
        u, v = np.rint(cell_middles(SIZE, SIDE)).astype(int).T
        shown = ~np.isnan(flow[:, 0])
        assert (shown == (drawn[v, u, 3] > 127)).mean() > 0.9  # but for the outline
        there = np.rint(cell_middles(SIZE, SIDE) + np.nan_to_num(flow)).astype(int)
        inside = shown & (there >= 0).all(1) & (there < SIZE).all(1)
        for pixels, found in ((there, alike), (np.column_stack([u, v]), moved)):
            seen = window[pixels[inside, 1], pixels[inside, 0], :3].astype(int)
            found.append(np.abs(seen - drawn[v[inside], u[inside], :3]).max(1) < 30)
    shares = [np.concatenate(x).mean() for x in (alike, moved)]  # some points hide behind others, some are on an edge
    assert shares[0] > 0.8 and 1 - shares[0] < 0.7 * (1 - shares[1])


def truth_and_start(rng: np.random.Generator) -> tuple[Array, Array]:
    T = transform(exp_so3(rng.normal(size=3)), np.array([*rng.uniform(-0.05, 0.05, 2), 0.5]))
    start = transform(exp_so3(0.1 * rng.normal(size=3)) @ T[:3, :3], T[:3, 3] + [0.004, -0.005, 0.02])
    return T, start


def finder(T_true: Array, spoiled: int = 0, spread: float = 0.5) -> FlowRefiner:
    """That answers with the true flow; of the first `spoiled` cells with any."""
    rng = np.random.default_rng(5)

    def infer(windows: np.ndarray) -> dict[str, np.ndarray]:
        assert windows.shape == (1, SIZE, SIZE, 6)
        found = here[-1]
        _, depth = found._raycaster.render(asked[-1])
        u, v = np.rint(cell_middles(SIZE, SIDE)).astype(int).T
        K = found._raycaster.K
        middles = cell_middles(SIZE, SIDE)
        rays = np.column_stack([(middles - K[:2, 2]) / np.diag(K)[:2], np.ones(len(u))])
        points = apply(inverse(asked[-1]), rays * depth[v, u][:, None])
        window_camera = asked[-1] @ inverse(poses[-1])
        flow = project(K, apply(window_camera @ T_true, points)) - middles
        flow[depth[v, u] == 0] = 77.0  # must not be read
        flow[rng.permutation(len(flow))[:spoiled]] += 12.0
        return {"flow": flow[None].astype(np.float32), "doubt": np.full((1, SIDE**2), spread, np.float32)}

    class Watched(FlowRefiner):
        def find(self, look: Look, T_camera_object: Array):  # type: ignore[no-untyped-def]
            poses.append(T_camera_object)
            render = self._raycaster.render

            def seen(T: Array):  # type: ignore[no-untyped-def]
                asked.append(T)
                return Raycaster.render(self._raycaster, T)

            self._raycaster.render = seen  # type: ignore[method-assign]
            found = super().find(look, T_camera_object)
            self._raycaster.render = render  # type: ignore[method-assign]
            return found

    here: list[FlowRefiner] = []
    asked: list[Array] = []
    poses: list[Array] = []
    refiner = Watched(infer, MESH, CORNERS, CROP, FILL, 3)
    here.append(refiner)
    return refiner


def solution(T: Array, variance: float = 1.0) -> Solution:
    return Solution(T, np.zeros((8, 2)), 1.5, variance * np.eye(6), 9.0)


def apart(a: Array, b: Array) -> tuple[float, float]:
    """Degrees, metres."""
    return float(np.degrees(np.linalg.norm(log_so3(a[:3, :3].T @ b[:3, :3])))), float(
        np.linalg.norm(a[:3, 3] - b[:3, 3])
    )


def test_true_flow_leads_to_the_true_pose() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        T, start = truth_and_start(rng)
        found = finder(T).refine(LOOK, solution(start))
        assert apart(start, T)[0] > 1.0
        turned, moved = apart(found.T_camera_object, T)
        assert turned < 0.3 and moved < 2e-3
        assert found.expected_error < 9.0 and found.reprojection_error == 1.5


def test_some_wrong_cells_do_little() -> None:
    T, start = truth_and_start(np.random.default_rng(3))
    found = finder(T, spoiled=8).refine(LOOK, solution(start))
    assert apart(found.T_camera_object, T)[0] < 0.5 * apart(start, T)[0]


def test_a_pose_that_is_sure_stays_where_the_flow_is_not() -> None:
    T, start = truth_and_start(np.random.default_rng(4))
    unsure = finder(T, spread=60.0).refine(LOOK, solution(start, 1e-8))
    assert apart(unsure.T_camera_object, start)[0] < 0.1
    sure = finder(T, spread=0.5).refine(LOOK, solution(start, 1.0))
    assert apart(sure.T_camera_object, T)[0] < 0.3
    assert np.trace(sure.covariance) < np.trace(solution(start, 1.0).covariance)


def test_what_is_not_seen_stays_as_it_was() -> None:
    T, _ = truth_and_start(np.random.default_rng(4))
    behind = solution(transform(T[:3, :3], np.array([0.0, 0.0, -0.5])))
    assert finder(T).refine(LOOK, behind) is behind


def test_calibration_sees_how_wrong_the_flow_is() -> None:
    T, start = truth_and_start(np.random.default_rng(6))
    right = finder(T).squared_error(LOOK, start, T)
    wrong = finder(T).squared_error(LOOK, start, T @ transform(exp_so3(np.array([0.1, 0.0, 0.0])), np.zeros(3)))
    assert right is not None and wrong is not None and right < 1.0 < wrong


def test_only_cells_that_show_the_model_count() -> None:
    head = HEADS["flow"](8, 4, flow_contract(16, 4))
    y = torch.tensor([[[5.0, 0.0], [torch.nan, torch.nan], [0.0, -10.0], [torch.nan, torch.nan]]])
    flow = torch.zeros(1, 4, 2)
    loss = head.loss((flow, torch.zeros(1, 4)), {"y": y})
    assert loss.pose.item() == pytest.approx((1.0 + 2.0) / 2)  # in units of 5 pixels
    actual = 0.5 * np.log(np.array([0.5, 2.0]))
    assert loss.expectation.item() == pytest.approx(float(np.mean(actual**2)), rel=1e-5)
    nothing = head.loss((flow, torch.zeros(1, 4)), {"y": torch.full((1, 4, 2), torch.nan)})
    assert nothing.pose.item() == 0.0
    decoded = head.decode((torch.ones(2, 4, 2), torch.zeros(2, 4)))
    assert decoded["flow"].shape == (2, 4, 2) and decoded["flow"][0, 0, 0] == 5.0 and decoded["doubt"][0, 0] == 5.0
