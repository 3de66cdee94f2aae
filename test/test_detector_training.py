"""The detector's training: samples whose labels are where the picture shows the object, the loss, and the way from a
run to a bundle that finds its objects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")

from rendered_bop import CAMERA, box_mesh, write_rendered_bop

from fm_pose_core.cli import main
from fm_pose_core.config import EstimatorConfig, from_dict
from fm_pose_core.contract import DETECTED, DISTANCE_SCALE, detector_contract
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, box_corners, exp_so3, inverse_intrinsics, project
from fm_pose_core.learning.export import read_checkpoint
from fm_pose_core.learning.heads import Centres, Field
from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig
from fm_pose_core.objects.bop import BopDataset, Instance
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.detection.detector import peaks, whole_image
from fm_pose_core.objects.detection.experiment import DetectorExperiment
from fm_pose_core.objects.detection.samples import (
    BARS,
    MOST,
    Canvas,
    DetectorConfig,
    PairedScenes,
    Pasting,
    RenderedScenes,
    Scene,
    Seen,
)
from fm_pose_core.objects.detection.scenes import prepare_scenes
from fm_pose_core.objects.detection.validation import DetectorValidation
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.photographs import prepare_real_views
from fm_pose_core.objects.samples import ObjectAssets, RealConfig, SyntheticConfig
from fm_pose_core.objects.viewpoints import ViewpointConfig
from fm_pose_core.rendering.appearance import AppearanceConfig
from fm_pose_core.rendering.backgrounds import Backgrounds
from fm_pose_core.runtime.weights import named_weights
from fm_pose_core.tasks import load_experiment

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 160
MESHES = {1: box_mesh(), 2: box_mesh(half=np.array([0.03, 0.04, 0.02]), symmetric=True)}


def assets() -> dict[int, ObjectAssets]:
    """Of both boxes, by id."""
    found = {}
    for index, (k, mesh) in enumerate(MESHES.items()):
        diameter = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
        crop = Crop.around(diameter, 0.3, size=64)
        found[k] = ObjectAssets(mesh, box_corners(*mesh.box), crop, index)
    return found


def real_assets(dataset: BopDataset) -> list[ObjectAssets]:
    """With what the photographs show of each."""
    found = []
    for k, x in assets().items():
        own, patch = [i for i in dataset.instances("test") if i.object_id == k], x.crop.patch()
        views, colours = prepare_real_views(dataset, "test", own, x.mesh, patch, x.center, 0)
        found.append(replace(x, patch=patch, views=views, colours=colours))
    return found


def black(config: DetectorConfig, **appearance: float) -> Pasting:
    """Pastes onto black, without anything else."""
    rng = np.random.default_rng(0)
    backgrounds = Backgrounds([np.zeros((8, 8, 3), np.uint8)], config.size, rng)
    return Pasting(config, AppearanceConfig(**appearance), backgrounds, rng)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> BopDataset:
    return BopDataset(write_rendered_bop(tmp_path_factory.mktemp("bop") / "pair", frames=8, objects=2))


def test_a_rendered_object_is_where_its_label_says() -> None:
    config = DetectorConfig(size=SIZE, objects=1)
    viewpoints = ViewpointConfig(distance=(0.3, 0.4), sphere="full")
    samples = RenderedScenes(list(assets().values()), SyntheticConfig(viewpoints=viewpoints), black(config))
    compared = 0
    for _ in range(60):
        image, places, objects = samples.draw()
        shown = image.any(-1)
        if np.isnan(places[0, 0]):  # too little of it is inside
            continue
        assert np.isnan(places[1:]).all() and objects[0] in (0, 1)
        v, u = np.nonzero(shown)
        edge = 2 + int(max(BARS) * SIZE / 2)  # some images have black bars
        whole = u.min() > 1 and u.max() < SIZE - 2 and v.min() > edge and v.max() < SIZE - edge
        middle = np.array([u.min() + u.max(), v.min() + v.max()]) / 2
        if whole:  # a box is about the same on all sides of its centre
            assert np.abs(places[0, :2] - middle).max() < 4.0
            outline = np.column_stack([u, v])[:, None] - np.column_stack([u, v])[None, ::7]
            across = np.linalg.norm(outline, axis=-1).max()  # of the box, which may be seen along its diagonal
            assert 0.6 < across / (SIZE * np.exp(-places[0, 2])) < 1.15
            compared += 1
    assert compared > 5
    samples.close()


def scene_of(dataset: BopDataset) -> list[Scene]:
    return prepare_scenes(dataset.instances("test"), assets(), SIZE)


def test_a_photograph_is_prepared_with_models_on_their_places(dataset: BopDataset) -> None:
    scenes, known = scene_of(dataset), assets()
    assert len(scenes) == 8
    for scene, image in zip(scenes, range(8), strict=True):
        own = [x for x in dataset.instances("test") if x.im_id == image]
        assert sorted(scene.objects) == [0, 1]
        for number, (k, centre) in enumerate(zip(scene.objects, scene.centres, strict=True)):
            mask = scene.owner == number
            (x,) = (x for x in own if known[x.object_id].index == k)
            # The photographs are the renderings, darker by a fifth.
            inside = mask & (scene.rendered.min(-1) > 0)
            ratio = scene.photo[inside].astype(float).mean() / scene.rendered[inside].mean()
            assert ratio == pytest.approx(0.8, abs=0.05)
            v, u = np.nonzero(mask)
            assert np.abs(centre - [(u.min() + u.max()) / 2, (v.min() + v.max()) / 2]).max() < 5.0
            straight = project(x.camera.K, apply(x.T_camera_object, np.zeros((1, 3))))[0]
            # The virtual camera looks along the middle of the image, and sees all of it.
            scale = scene.K[0, 0] / x.camera.K[0, 0]
            assert np.abs((centre - scene.K[:2, 2]) - (straight - [159.5, 119.5]) * scale).max() < 3.0


def test_a_label_s_depth_is_that_of_a_camera_that_turns_and_zooms(dataset: BopDataset) -> None:
    scene, instances = scene_of(dataset)[0], dataset.instances("test")
    known, own = assets(), [x for x in instances if x.im_id == instances[0].im_id]
    focal, R = 1.3 * scene.K[0, 0], exp_so3(np.array([0.15, -0.1, 0.4]))  # of the turned camera, in the scene's
    K = np.array([[focal, 0.0, 79.5], [0.0, focal, 79.5], [0.0, 0.0, 1.0]])
    canvas = Canvas([np.zeros((SIZE, SIZE, 3), np.uint8)])
    canvas.take(scene, K @ R.T @ inverse_intrinsics(scene.K), focal)
    for x in own:
        k = known[x.object_id]
        along = whole_image(x.camera, SIZE)[1] @ R  # R_camera_view
        centre = along.T @ apply(x.T_camera_object, k.center[None])[0]
        (place,) = (place for index, place in canvas.objects if index == k.index)
        np.testing.assert_allclose(place[:2], project(K, centre[None])[0], atol=1e-6)
        covered = focal * np.linalg.norm(np.ptp(k.corners, axis=0)) / centre[2]  # pixels
        assert place[2] == pytest.approx(np.log(SIZE / covered), abs=1e-9)


def test_what_is_pasted_off_the_axis_has_the_depth_of_a_ball_that_looks_so_large() -> None:
    """A ball is seen as an ellipse off the axis: as wide as ever across, wider by 1 / cos along."""
    config = DetectorConfig(size=320, field_of_view=(75.0, 75.0))
    pasting, aside = black(config), 0
    for _ in range(30):
        disc = np.zeros((160, 160, 4), np.uint8)
        cv2.circle(disc, (80, 80), 30, (255, 255, 255, 255), -1)
        focal = pasting.focal()
        (image,), (u, v, log) = pasting.place(
            [disc], Seen(400.0, 400.0 / 61.0), focal, 0.0, pasting.where(Canvas([np.zeros((320, 320, 3), np.uint8)]))
        )  # 61 pixels wide
        rows, columns = np.nonzero(image[..., 3] > 127)
        if min(rows.min(), columns.min()) == 0 or max(rows.max(), columns.max()) == 319:
            continue
        cosine = 1 / np.sqrt(1 + ((u - 159.5) ** 2 + (v - 159.5) ** 2) / focal**2)
        depth = focal / np.sqrt(4 / np.pi * len(rows) * cosine)  # in diameters of the ball
        assert log == pytest.approx(np.log(depth * 320 / focal), abs=0.03)
        aside += cosine < 0.85
    assert aside > 3


def test_a_real_sample_and_its_twin_show_the_same(dataset: BopDataset) -> None:
    config = DetectorConfig(size=SIZE, plain=1.0, objects=1)
    samples = PairedScenes(list(real_assets(dataset)), scene_of(dataset), RealConfig(), black(config))
    seen, differences = 0, []
    for _ in range(12):
        real, twin, places, objects = samples.draw()
        count = int((~np.isnan(places[:, 0])).sum())
        assert np.isnan(places[count:]).all() and set(objects[:count]) <= {0, 1}
        seen += count
        for u, v, _ in places[:count]:
            i, j = int(np.clip(round(float(v)), 0, SIZE - 1)), int(np.clip(round(float(u)), 0, SIZE - 1))
            differences.append(np.abs(real[i, j].astype(int) - 0.8 * twin[i, j]).max())
            assert real[i, j].max() > 20  # it is there
    assert seen > 12 and np.median(differences) < 25  # the photographs are darker by a fifth


def test_what_is_hidden_or_outside_has_no_label() -> None:
    black_image = np.zeros((SIZE, SIZE, 3), np.uint8)
    canvas = Canvas([black_image])

    def square(left: int, top: int, side: int) -> np.ndarray:
        layer = np.zeros((SIZE, SIZE, 4), np.uint8)
        layer[max(0, top) : top + side, max(0, left) : left + side] = 255
        return layer

    canvas.paste([square(10, 10, 20)], 0, (20.0, 20.0, 2.0))
    canvas.paste([square(60, 60, 20)], 1, (70.0, 70.0, 2.25))
    canvas.paste([square(9, 9, 20)], 1, (19.0, 19.0, 1.5))  # nearly covers the first
    canvas.paste([square(-15, 100, 20)], 0, (-5.0, 110.0, 2.0))  # its centre is outside
    places, objects = canvas.labels()
    assert places.shape == (MOST, 3) and np.isnan(places[2:]).all()
    assert sorted(zip(places[:2].tolist(), objects[:2].tolist(), strict=True)) == [
        ([19.0, 19.0, 1.5], 1),
        ([70.0, 70.0, 2.25], 1),
    ]
    canvas.cover(black_image, np.full((SIZE, SIZE), 255, np.uint8))
    assert np.isnan(canvas.labels()[0]).all()


def test_large_occluders_hide_sides_of_objects_whose_labels_stay_where_they_are() -> None:
    """Of a white square on black: how much is left to see, and where its label is."""
    config, left = DetectorConfig(size=SIZE), []
    pasting = black(config, occluders=1.0, large=1.0)
    for _ in range(60):
        canvas, layer = Canvas([np.zeros((SIZE, SIZE, 3), np.uint8)]), np.zeros((SIZE, SIZE, 4), np.uint8)
        layer[60:100, 60:100] = 255
        canvas.paste([layer], 1, (79.5, 79.5, 1.0))
        shown = pasting.finish(canvas, bars=False)[60:100, 60:100, 0] > 127
        left.append(float(shown.mean()))
        places, objects = canvas.labels()
        if left[-1] > 0.11:
            assert places[0].tolist() == [79.5, 79.5, 1.0] and objects[0] == 1
        if left[-1] < 0.09:
            assert np.isnan(places).all()
    assert np.quantile(left, 0.2) < 0.5 and np.quantile(left, 0.9) > 0.6


def test_objects_are_pasted_where_they_hide_others_as_often_as_asked() -> None:
    canvas = Canvas([np.zeros((SIZE, SIZE, 3), np.uint8)])
    layer = np.zeros((SIZE, SIZE, 4), np.uint8)
    layer[70:90, 30:50] = 255
    canvas.paste([layer], 0, (39.5, 79.5, 1.0))
    for large, least, most in ((0.0, 0.0, 0.15), (0.5, 0.35, 0.65), (1.0, 1.0, 1.0)):
        pasting = black(DetectorConfig(size=SIZE), occluders=1.0, large=large)
        places = np.array([pasting.where(canvas) for _ in range(200)])
        beside = np.linalg.norm(places - [39.5, 79.5], axis=1) <= 1.2 * 20 + 1e-9
        assert least <= beside.mean() <= most


def perfect(labels: dict[str, torch.Tensor], cells: int, objects: int) -> Field:
    """What a network would answer that knows everything."""
    side = int(cells**0.5)
    middles = (torch.arange(side) + 0.5) * 2 / side - 1
    anchors = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1).reshape(-1, 2)
    y = (labels["y"][..., :2] - (SIZE - 1) / 2) / (SIZE / 2)
    depth, heat = (torch.full((len(y), objects, cells), x) for x in (7.0, -12.0))
    centre = anchors.repeat(len(y), objects, 1, 1)
    for n in range(len(y)):
        for m in range(y.shape[1]):
            if not y[n, m, 0].isnan():
                away, k = (anchors - y[n, m]).norm(dim=-1), labels["k"][n, m]
                centre[n, k, away < 0.2] = y[n, m]
                depth[n, k, away < 0.2] = (labels["y"][n, m, 2] - DETECTED) / DISTANCE_SCALE
                heat[n, k, away.argmin()] = 12.0
    return Field(centre, heat, depth)


@pytest.mark.parametrize(
    ("first", "second", "objects"),
    [
        ((40.0, 52.0, 1.7), (121.0, 99.0, 2.4), [0, 1]),
        ((41.0, 53.0, 1.7), (44.0, 50.0, 2.4), [0, 1]),
        ((40.0, 52.0, 1.7), (121.0, 99.0, 2.4), [0, 0]),
    ],
)
def test_the_loss_wants_hills_of_the_right_object_on_the_centres(first: Any, second: Any, objects: list[int]) -> None:
    """Of two objects that lie apart, of two whose centres lie in the same cell, and of two of the same kind."""
    cells, contract = 400, detector_contract(SIZE, 2, 400, depth=True)
    head = Centres(16, cells, contract)
    y = torch.full((1, 4, 3), torch.nan)
    y[0, 0], y[0, 1] = torch.tensor(first), torch.tensor(second)
    labels = {"y": y, "k": torch.tensor([[*objects, 0, 0]])}
    best = perfect(labels, cells, 2)
    assert head.loss(best, labels).pose.item() == pytest.approx(0.0, abs=1e-3)
    answers = {k: v[0].numpy() for k, v in head.decode(best).items()}
    found = peaks(answers["heat"], answers["centre"].astype(float), SIZE, 0.5)
    deep = answers["depth"]
    told = sorted((x.object, *np.round(x.centre, 3), round(float(deep[x.object, x.cell]), 3)) for x in found)
    assert told == [(objects[0], *first), (objects[1], *second)]
    one_missed = best._replace(heat=best.heat.clone())
    one_missed.heat[0, objects[1]] = -12.0
    one_false = best._replace(heat=best.heat.clone())
    one_false.heat[0, 1 - objects[1], 0] = 12.0  # where no object is
    elsewhere = best._replace(centre=best.centre + 0.1)  # one cell
    missed = best._replace(heat=torch.full_like(best.heat, -12.0))
    everywhere = best._replace(heat=torch.full_like(best.heat, 12.0))
    assert best.depth is not None
    farther = best._replace(depth=best.depth + 1.0)
    assert head.loss(farther, labels).pose.item() == pytest.approx(1.0, abs=1e-3)
    for worse, least in ((one_missed, 5.0), (one_false, 5.0), (elsewhere, 1.0), (missed, 5.0), (everywhere, 100.0)):
        assert head.loss(worse, labels).pose.item() > least
    swapped = best._replace(centre=best.centre.flip(1))  # what one object's cells say is no matter to the other's
    assert head.loss(swapped, labels).pose.item() > 0.2
    nothing = {"y": torch.full((1, 4, 3), torch.nan), "k": torch.zeros((1, 4), dtype=torch.int64)}
    assert head.loss(missed, nothing).pose.item() == pytest.approx(0.0, abs=1e-3)
    assert head.loss(best, nothing).pose.item() > 5.0


def test_the_validation_compares_with_where_the_objects_are(dataset: BopDataset) -> None:
    """A network that knows all, of two objects of different size, off the axis; and one that puts them 10 % deeper."""
    known, names = assets(), ["box", "brick"]
    crop, R = whole_image(CAMERA, SIZE)

    class Network:
        def __init__(self, instances: list[Instance], deeper: float) -> None:
            images = sorted({x.im_id for x in instances})
            self.images, self.deeper = iter([[x for x in instances if x.im_id == i] for i in images]), deeper

        def infer(self, _: np.ndarray) -> dict[str, np.ndarray]:
            heat, depth = np.zeros((2, 1, 2, 400), np.float32)
            centre = np.zeros((1, 2, 400, 2), np.float32)
            for x in next(self.images):
                own = known[x.object_id]
                at = R.T @ apply(x.T_camera_object, own.center[None])[0]
                u, v = project(crop.K, at[None])[0]
                cell = int(v // 8) * 20 + int(u // 8)
                heat[0, own.index, cell], centre[0, own.index, cell] = 1.0, (u, v)
                depth[0, own.index, cell] = np.log(self.deeper * at[2] / crop.unit_distance(own.corners))
            return {"heat": heat, "centre": centre, "depth": depth}

    instances = dataset.instances("test")
    for deeper, off in ((1.0, 0.0), (1.1, 0.1)):
        network: Any = Network(instances, deeper)
        told = DetectorValidation(instances, known, names, SIZE).run(network)
        assert told["validation/found"] == 1.0 and told["validation/false"] == 0.0
        assert told["validation/off_px"] < 0.01 and told["validation/off_depth"] == pytest.approx(off, abs=1e-4)


CONFIG = """
data: {{dataset: {root}, training_frames: 0-5, validation_frames: 6-7}}
objects: [{{id: 1}}, {{id: 2, name: brick}}]
crop: {{size: 64}}
synthetic: {{viewpoints: {{distance: [0.3, 0.5]}}}}
network: {{width: 8, features: 16}}
schedule: {{pretrain_images: 8, images: 16, batch_synthetic: 2, batch_pairs: 2, workers: 0, precision: fp32,
  learning_rate: 0.003}}
detector: {{size: 160, width: 8, features: 32, pretrain_images: 120, images: {images}, batch: 4, objects: 3,
  depth: true}}
"""


def test_from_a_run_to_a_bundle_that_finds_its_objects(
    dataset: BopDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run, bundle = tmp_path / "pair.yaml", tmp_path / "run", tmp_path / "bundle"
    scores: list[list[float]] = []
    config.write_text(CONFIG.format(root=dataset.root, images=2400))
    assert main(["train", str(config), "--output", str(run)]) == 0
    assert main(["train", "--resume", str(run), "--part", "detector"]) == 0
    assert (run / "detector" / "samples_joint.png").is_file()
    assert main(["export", str(run), str(bundle)]) == 0
    assert ObjectBundle.load(bundle).detector is not None
    for backend in ("onnxruntime", "openvino", "torch"):  # each of them takes it, and all say the same
        estimator = PoseEstimator.load(bundle, EstimatorConfig(backend=backend, threads=1))
        picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
        found = estimator.detector.detect(picture, CAMERA, 0.001)
        scores.append([x.score for x in found])
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=2e-3)
    other = load_experiment(config, ["schedule.learning_rate=0.001"]).parts()["detector"]
    assert read_checkpoint(run / "detector", other, ("schedule",))  # it is a detector, however it was trained
    with pytest.raises(InputError, match=r"schedule\.learning_rate"):
        read_checkpoint(run / "detector", other)
    continued = from_dict(NetworkConfig, {"width": 8, "features": 32, "extractor": "fine", "weights": str(bundle)})
    begun = FeatureMapping(continued, detector_contract(160, 2, 400, depth=True)).state_dict()
    stored = named_weights(ObjectBundle.load(bundle).path / "detector.onnx")
    assert all(np.array_equal(begun[k], stored[k].astype(np.float32)) for k in begun if k in stored)
    assert {"h.heat.weight", "h.depth.weight"} <= begun.keys() & stored.keys()  # not those of the poses' network
    assert main(["train", "--resume", str(run), "--part", "detector"]) == 0  # it is finished
    capsys.readouterr()
    call = ["evaluate", "bop", "--bundle", str(bundle), "--root", str(dataset.root), "--window", "detect"]
    assert main([*call, "--frames", "6-7", "--keep-rejected", "--views", "1", "--csv", str(tmp_path / "out.csv")]) == 0
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert len(rows) == 1 + 4  # both objects have a window in both images
    times = [float(row.split(",")[-1]) for row in rows[1:]]
    assert min(times) > 0.0


def test_evaluate_without_a_detector_says_so(dataset: BopDataset, toy_bundle: Path, capsys) -> None:
    call = ["evaluate", "bop", "--bundle", str(toy_bundle), "--root", str(dataset.root), "--window", "detect"]
    assert main(call) == 2
    assert "expected a bundle with a detector, got one without" in capsys.readouterr().err


def test_a_part_that_is_none_is_named(dataset: BopDataset, tmp_path: Path, capsys) -> None:
    config = tmp_path / "pair.yaml"
    config.write_text(CONFIG.format(root=dataset.root, images=16))
    assert main(["train", str(config), "--output", str(tmp_path / "run"), "--part", "wings"]) == 2
    assert "--part: expected one of detector, refiner, got wings" in capsys.readouterr().err


def test_a_part_does_not_hang_on_the_settings_of_another(dataset: BopDataset, tmp_path: Path) -> None:
    config = tmp_path / "pair.yaml"
    config.write_text(CONFIG.format(root=dataset.root, images=16))
    experiment: Any = load_experiment(config)
    read = {"poses": experiment.own(), **{k: x.own() for k, x in experiment.parts().items()}}
    sections = {k: set(values) & {"detector", "refiner"} for k, values in read.items()}
    assert sections == {"poses": set(), "detector": {"detector"}, "refiner": {"refiner"}}
    mixed = load_experiment(config, ["schedule.beginning=0.5"]).parts().values()
    assert [x.schedule.beginning for x in mixed] == [0.0, 0.0]  # a refiner begins with nothing that it could keep


def test_a_detector_alone_is_no_bundle(dataset: BopDataset, tmp_path: Path) -> None:
    config = tmp_path / "pair.yaml"
    config.write_text(CONFIG.format(root=dataset.root, images=16))
    experiment: Any = load_experiment(config)
    part = experiment.parts()["detector"]
    assert isinstance(part, DetectorExperiment) and part.contract().size == 160
    with pytest.raises(InputError, match="got that of its detector alone"):
        part.read_data().write_bundle(tmp_path / "bundle", None)


def test_the_folder_of_a_part_is_no_run(dataset: BopDataset, tmp_path: Path, capsys) -> None:
    """Neither to go on with nor to export; the message names the command that does it. And the detector's settings are
    none of the poses' training: they may change beside it."""
    config, run = tmp_path / "pair.yaml", tmp_path / "run"
    config.write_text(CONFIG.format(root=dataset.root, images=16))
    assert main(["train", str(config), "--output", str(run)]) == 0
    config.write_text(CONFIG.format(root=dataset.root, images=32))
    assert main(["train", str(config), "--output", str(run)]) == 0  # it is finished: nothing to refuse
    assert main(["train", "--resume", str(run), "--part", "detector"]) == 0
    capsys.readouterr()
    for call in (["train", "--resume", str(run / "detector")], ["export", str(run / "detector"), str(tmp_path / "b")]):
        assert main(call) == 2
        told = capsys.readouterr().err
        assert f"as {run}, with --part detector to train it, got a part of one" in told
