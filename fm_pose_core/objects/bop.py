"""BOP datasets (https://bop.felk.cvut.cz, Hodan et al., ECCV 2018) and BOP result files.

BOP writes millimetres; everything that leaves this module is in metres. Layout of a dataset:

    ROOT/models/models_info.json, obj_000001.ply …        models_eval/ likewise (fewer vertices)
    ROOT/SPLIT/000002/scene_camera.json, scene_gt.json, scene_gt_info.json, rgb/000003.png (or gray/, .jpg, .tif)
    ROOT/test_targets_bop19.json
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from fm_pose_core.document import Document, read_document
from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import read_image, write_atomically
from fm_pose_core.geometry import Array, exp_so3, project_to_so3, transform
from fm_pose_core.types import Camera

MM = 1e-3
MOST = 1000  # symmetries

# Names that the datasets' authors give to their objects, from id 1.
LINEMOD = (
    *("ape", "benchvise", "bowl", "camera", "can", "cat", "cup", "driller"),
    *("duck", "eggbox", "glue", "holepuncher", "iron", "lamp", "phone"),
)
OBJECT_NAMES = {name: dict(enumerate(LINEMOD, start=1)) for name in ("lm", "lmo")}


@dataclass(frozen=True)
class ObjectModel:
    """A model: box `minimum` and `maximum` (3,), `diameter`, metres; `symmetries` (4, 4) each, without the identity."""

    id: int
    name: str
    minimum: Array
    maximum: Array
    diameter: float
    symmetries: tuple[Array, ...]
    mesh_path: Path


Key = tuple[int, int, int]  # scene_id, im_id, object_id


@dataclass(frozen=True)
class Instance:
    """One object in one image. `visible_fraction` is BOP's visib_fract, NaN where the dataset does not tell;
    `T_camera_world` (4, 4) its cam_R_w2c and cam_t_w2c, None where it does not."""

    scene_id: int
    im_id: int
    object_id: int
    T_camera_object: Array
    visible_fraction: float
    camera: Camera
    image_path: Path
    T_camera_world: Array | None = None


@dataclass(frozen=True)
class Result:
    """One line of a BOP result file: pose in metres, `time` in seconds for the whole image (-1 if unknown)."""

    scene_id: int
    im_id: int
    object_id: int
    score: float
    T_camera_object: Array
    time: float = -1.0


def key(x: Instance | Result) -> Key:
    return x.scene_id, x.im_id, x.object_id


class BopDataset:
    """A BOP dataset on disk. labels: other ones in place of the dataset's own, see `relabelled`. Raises InputError that
    names the file that is missing or broken."""

    def __init__(self, root: str | Path, labels: str | Path | None = None) -> None:
        self.root, self.labels = Path(root), labels
        expect(self.root.is_dir(), str(root), "the folder of a BOP dataset", "no folder")

    @cached_property
    def objects(self) -> dict[int, ObjectModel]:
        """All models by id, with the finer meshes of `models/` where they exist."""
        folder = next(
            (self.root / n for n in ("models", "models_eval") if (self.root / n / "models_info.json").is_file()),
            self.root / "models",
        )
        names = OBJECT_NAMES.get(self.root.name.lower(), {})
        result = {}
        for number, info in read_document(folder / "models_info.json").keyed():
            minimum, size = (
                np.array([info[f"{what}_{axis}"].number() for axis in "xyz"]) * MM for what in ("min", "size")
            )
            result[number] = ObjectModel(
                id=number,
                name=names.get(number, f"obj_{number:06d}"),
                minimum=minimum,
                maximum=minimum + size,
                diameter=info["diameter"].number() * MM,
                symmetries=_symmetries(info),
                mesh_path=folder / f"obj_{number:06d}.ply",
            )
        return result

    def model(self, object_id: int) -> ObjectModel:
        expect(object_id in self.objects, "object id", f"one of {sorted(self.objects)} in {self.root}", object_id)
        return self.objects[object_id]

    def scenes(self, split: str) -> list[int]:
        folder = self.root / split
        expect(
            folder.is_dir(),
            f"split {split!r}",
            f"one of {[p.name for p in sorted(self.root.iterdir()) if p.is_dir()]} in {self.root}",
            "no folder",
        )
        return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdigit())

    def frames(self, split: str, scene_id: int) -> list[int]:
        """Image ids of a scene, ascending (for a sequence: in time)."""
        return [k for k, _ in read_document(self._scene(split, scene_id) / "scene_camera.json").keyed()]

    def instances(self, split: str, object_ids: Iterable[int] | None = None) -> list[Instance]:
        """All annotated instances of a split (of `object_ids` alone if given), ordered by scene, image, object."""
        wanted = None if object_ids is None else set(object_ids)
        result = []
        for scene_id in self.scenes(split):
            folder = self._scene(split, scene_id)
            cameras = dict(read_document(folder / "scene_camera.json").keyed())
            info_path = folder / "scene_gt_info.json"
            infos = dict(read_document(info_path).keyed()) if info_path.is_file() else {}
            for im_id, truths in read_document(folder / "scene_gt.json").keyed():
                expect(im_id in cameras, truths.where, "a camera in scene_camera.json", "none")
                image_path = self.image_path(split, scene_id, im_id)
                camera, world = _camera(cameras[im_id], image_path)
                visible = _visible_fractions(infos.get(im_id), len(truths.elements()))
                for truth, share in zip(truths.elements(), visible, strict=True):
                    object_id = truth["obj_id"].whole()
                    if wanted is None or object_id in wanted:
                        T = _pose(truth)
                        result.append(Instance(scene_id, im_id, object_id, T, share, camera, image_path, world))
        result.sort(key=lambda x: (x.scene_id, x.im_id, x.object_id))
        return relabelled(result, self.labels) if self.labels is not None else result

    def targets(self, name: str = "test_targets_bop19.json") -> set[Key] | None:
        """(scene_id, im_id, obj_id) that the BOP challenge scores, or None where the dataset has no such file."""
        path = self.root / name
        if not path.is_file():
            return None
        names = ("scene_id", "im_id", "obj_id")
        targets = [[t[name].whole() for name in names] for t in read_document(path).elements()]
        return {(scene_id, im_id, object_id) for scene_id, im_id, object_id in targets}

    def image_path(self, split: str, scene_id: int, im_id: int) -> Path:
        folder = self._scene(split, scene_id)
        for kind in ("rgb", "gray"):
            for suffix in ("png", "jpg", "tif"):
                path = folder / kind / f"{im_id:06d}.{suffix}"
                if path.is_file():
                    return path
        raise InputError(f"{folder}: expected an image {im_id:06d} in rgb/ or gray/, got none")

    def _scene(self, split: str, scene_id: int) -> Path:
        return self.root / split / f"{scene_id:06d}"


def relabelled(instances: Sequence[Instance], labels: str | Path) -> list[Instance]:
    """The instances with the poses of other labels; those that these do not have are left out.

    labels: a scene_gt.json where the instances are of one scene, or a folder with SCENE/scene_gt.json. Of several
    instances of an object in an image, each takes the nearest pose that is left. Raises InputError.
    """
    path, scenes = Path(labels), sorted({x.scene_id for x in instances})
    single = path.is_file()
    expect(single or path.is_dir(), str(path), "a scene_gt.json, or a folder with SCENE/scene_gt.json", "nothing there")
    several = f"a folder with SCENE/scene_gt.json for scenes {', '.join(map(str, scenes))}"
    expect(not single or len(scenes) < 2, str(path), several, "one file")
    poses: dict[Key, list[Array]] = {}
    for scene in scenes:
        file = path if single else path / f"{scene:06d}" / "scene_gt.json"
        for image, truths in read_document(file).keyed():
            for truth in truths.elements():
                poses.setdefault((scene, image, truth["obj_id"].whole()), []).append(_pose(truth))
    result = []
    for x in instances:
        left = poses.get(key(x), [])
        if left:
            away = [float(np.linalg.norm(T[:3, 3] - x.T_camera_object[:3, 3])) for T in left]
            result.append(replace(x, T_camera_object=left.pop(int(np.argmin(away)))))
    return result


def _pose(entry: Document, kind: str = "m2c") -> Array:
    """T_camera_object (4, 4), metres, of an entry of scene_gt.json; T_camera_world, kind w2c, of scene_camera.json."""
    R = entry[f"cam_R_{kind}"]
    return transform(_rotation(R.numbers(3, 3), R.where), entry[f"cam_t_{kind}"].numbers(3) * MM)


def _rotation(M: Array, where: str) -> Array:
    """The rotation that M (3, 3) is but for its digits: published ones are off by up to 2e-3. Raises InputError."""
    R = project_to_so3(M)
    if not np.abs(M - R).max() < 0.05:
        raise InputError(f"{where}: expected a rotation matrix, got {np.round(M, 3).tolist()}")
    return R


def _camera(entry: Document, image_path: Path) -> tuple[Camera, Array | None]:
    """The camera of an image, and where it stood (4, 4), if an entry of scene_camera.json tells."""
    K = entry["cam_K"]
    try:
        camera = Camera(K.numbers(3, 3), *_image_size(image_path))
    except InputError as error:
        raise InputError(f"{K.where}: {error}") from None
    return camera, _pose(entry, "w2c") if "cam_R_w2c" in entry else None


def _visible_fractions(infos: Document | None, count: int) -> list[float]:
    """Of the instances in an image, by its entry of scene_gt_info.json; NaN where it does not tell."""
    if infos is None:
        return [float("nan")] * count
    entries = infos.elements()
    expect(len(entries) == count, infos.where, f"{count} entries, as in scene_gt.json", len(entries))
    return [x["visib_fract"].number() if "visib_fract" in x else float("nan") for x in entries]


def read_results(path: str | Path) -> list[Result]:
    """Read a BOP result file: scene_id, im_id, obj_id, score, R (9 numbers, row-major), t (3, mm), time. Rotations are
    projected to SO(3), since published ones are not always orthonormal."""
    path = Path(path)
    expect(path.is_file(), str(path), "a BOP result file", "nothing there")
    results = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if row and row[0].strip() != "scene_id":
                    results.append(_result(row))
        except (ValueError, OverflowError, csv.Error) as error:
            expected = "scene_id,im_id,obj_id,score,R(9),t(3),time"
            raise InputError(f"{path}:{reader.line_num}: expected {expected}, got {error}") from None
    return results


def _result(row: Sequence[str]) -> Result:
    expect(len(row) == 7, "line", "7 columns", f"{len(row)}: {','.join(row)[:80]!r}")
    scene_id, im_id, object_id, score, R_text, t_text, time = row
    R = np.array(R_text.split(), dtype=np.float64).reshape(3, 3)
    t = np.array(t_text.split(), dtype=np.float64).reshape(3) * MM
    finite = bool(np.isfinite(R).all() and np.isfinite(t).all() and np.isfinite([float(score), float(time)]).all())
    expect(finite, "line", "finite numbers", repr(",".join(row)[:80]))
    T = transform(project_to_so3(R), t)
    return Result(int(scene_id), int(im_id), int(object_id), float(score), T, float(time))


def write_results(path: str | Path, results: Iterable[Result]) -> None:
    """Write a BOP result file (millimetres), atomically."""
    lines = ["scene_id,im_id,obj_id,score,R,t,time\n"]
    for r in results:
        R = " ".join(f"{x:.9g}" for x in r.T_camera_object[:3, :3].ravel())
        t = " ".join(f"{x:.9g}" for x in r.T_camera_object[:3, 3] / MM)
        lines.append(f"{r.scene_id},{r.im_id},{r.object_id},{r.score:.6g},{R},{t},{r.time:.6g}\n")
    write_atomically(path, "".join(lines).encode())


def _symmetries(info: Document, steps: int = 36) -> tuple[Array, ...]:
    """Discrete symmetries, and continuous ones sampled every 360°/steps, as (4, 4) in metres, without the identity."""
    discrete = [np.eye(4)]
    for symmetry in info.get("symmetries_discrete", []).elements():
        S = symmetry.numbers(4, 4)
        discrete.append(transform(_rotation(S[:3, :3], symmetry.where), S[:3, 3] * MM))
    continuous = [np.eye(4)]
    for symmetry in info.get("symmetries_continuous", []).elements():
        axis, offset = symmetry["axis"].numbers(3), symmetry["offset"].numbers(3) * MM
        length = float(np.linalg.norm(axis))
        expect(length > 0, symmetry.where, "an axis with a length", axis.tolist())
        for k in range(1, steps):
            R = exp_so3(axis / length * 2 * np.pi * k / steps)
            continuous.append(transform(R, offset - R @ offset))
    expect(len(continuous) * len(discrete) <= MOST, info.where, f"at most {MOST} symmetries", "more")
    return tuple(c @ d for c in continuous for d in discrete)[1:]


@cache
def _image_size_in(folder: Path, suffix: str) -> tuple[int, int]:
    height, width = read_image(next(folder.glob(f"*{suffix}"))).shape[:2]
    return width, height


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height), read once per folder: a BOP scene has one camera."""
    return _image_size_in(path.parent, path.suffix)
