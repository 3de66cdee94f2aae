"""Files as nobody should write them: damaged at random, or with values of another kind. What reads them must give an
answer or raise InputError within seconds; anything else is a fault.

    python test/malformed.py [BOUNDARY …] [--cases 10000] [--seed 0]     a longer run; prints what failed
"""

import copy
import csv
import io
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from fm_pose_core.errors import InputError

Rng = np.random.Generator
PATIENCE = 5.0  # seconds
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 1e-9, 0.5, 1e9, 1e308, -1e308, 2**63, 2**70, 10**400),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "0", "NaN", "é" * 50, "../../etc/passwd", "\0"),
    *([], [[]], [1], [1, 2, 3], ["a"], [None] * 3, [1e999] * 9, [0.0] * 9, {}, {"a": 1}, {"1": []}),
]


def changed_bytes(data: bytes, rng: Rng) -> bytes:
    """Cut, or with some bytes changed, doubled, dropped, or filled with zeros."""
    out, kind = bytearray(data), int(rng.integers(5))
    a, b = sorted(int(x) for x in rng.integers(0, len(out) + 1, 2))
    b = min(b, a + 64)
    if kind == 0:
        return bytes(out[:a])
    if kind == 1:
        for _ in range(int(rng.integers(1, 9))):
            out[int(rng.integers(len(out)))] = int(rng.integers(256))
    elif kind == 2:
        out[a:a] = out[a:b]
    elif kind == 3:
        del out[a:b]
    else:
        out[a:b] = bytes(b - a)
    return bytes(out)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All containers and keys within."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    inner = [(value, k) for k in keys]
    return inner + [p for k in keys if isinstance(value[k], dict | list) for p in _places(value[k])]


def changed_value(value: Any, rng: Rng) -> Any:
    """Plain data with one or two values replaced, dropped, renamed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 3))):
        places = _places(value) if isinstance(value, dict | list) else []
        if not places or rng.uniform() < 0.02:
            return copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
        inside, key = places[int(rng.integers(len(places)))]
        kind = rng.uniform()
        if kind < 0.75:
            inside[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
        elif kind < 0.87:
            del inside[key]
        elif isinstance(inside, dict):
            inside[["x", "-1", "1.5", "007", "9" * 30][int(rng.integers(5))]] = inside.pop(key)
        else:
            inside.append(copy.deepcopy(inside[key]))
    return value


def changed_json(data: bytes, rng: Rng) -> bytes:
    """Damaged as bytes, or in its values."""
    if rng.uniform() < 0.25:
        return changed_bytes(data, rng)
    return json.dumps(changed_value(json.loads(data), rng)).encode()


def changed_csv(data: bytes, rng: Rng) -> bytes:
    """Damaged as bytes, or in its fields."""
    if rng.uniform() < 0.3:
        return changed_bytes(data, rng)
    rows = changed_value(list(csv.reader(io.StringIO(data.decode()))), rng)
    rows = [x if isinstance(x, list) else [x] for x in rows] if isinstance(rows, list) else [[rows]]
    out = io.StringIO()
    csv.writer(out, escapechar="\\").writerows(rows)
    return out.getvalue().encode()


def changed_glb(data: bytes, rng: Rng) -> bytes:
    """Damaged as bytes, or in the values of its JSON."""
    if rng.uniform() < 0.3:
        return changed_bytes(data, rng)
    length = int.from_bytes(data[12:16], "little")
    content = json.dumps(changed_value(json.loads(data[20 : 20 + length]), rng)).encode()
    return data[:12] + len(content).to_bytes(4, "little") + data[16:20] + content + data[20 + length :]


ODD_YAML = ["2020-99-99", "0x_", "&a [*a]", "*a", "[" * 500, "!!bool x", "!!timestamp x", "!!int ''", "? x", "%"]


def changed_yaml(data: bytes, rng: Rng) -> bytes:
    """Damaged as bytes, in its values, or with what no writer of YAML writes."""
    import yaml

    kind = rng.uniform()
    if kind < 0.3:
        return changed_bytes(data, rng)
    if kind < 0.5:
        parts = data.decode().split(": ")
        parts[int(rng.integers(1, len(parts)))] = ODD_YAML[int(rng.integers(len(ODD_YAML)))] + "\n"
        return ": ".join(parts).encode()
    return yaml.safe_dump(changed_value(yaml.safe_load(data), rng)).encode()


@dataclass(frozen=True)
class Boundary:
    """files: what is read, by name, as it should be. change: makes one of them malformed. read: of the folder."""

    files: dict[str, bytes]
    change: Callable[[bytes, Rng], bytes]
    read: Callable[[Path], object]


@dataclass
class Outcome:
    """How many cases were read and refused, and what failed: the error and the seed that brings it back."""

    read: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)


class Hang(BaseException):
    """No Exception, so that nobody takes it for a fault of the file."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Hang after so long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"no end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attack(boundary: Boundary, folder: Path, cases: int, seed: int = 0) -> Outcome:
    """So many malformed cases in `folder`; the files as they should be are read first."""
    for name, data in boundary.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    boundary.read(folder)
    outcome, names = Outcome(), list(boundary.files)
    for k in range(cases):
        rng = np.random.default_rng([seed, k])
        name = names[int(rng.integers(len(names)))]
        (folder / name).write_bytes(boundary.change(boundary.files[name], rng))
        try:
            with limited(PATIENCE):
                boundary.read(folder)
            outcome.read += 1
        except InputError as error:
            outcome.refused += 1
            if len(str(error)) > 2000:
                outcome.failed.append(f"case {seed}/{k}, {name}: an error of {len(str(error))} letters")
        except (Exception, Hang) as error:
            outcome.failed.append(f"case {seed}/{k}, {name}: {type(error).__name__}: {str(error)[:200]}")
        (folder / name).write_bytes(boundary.files[name])
    return outcome


def boundaries(folder: Path) -> dict[str, Boundary]:
    """All that read files from outside. folder: for making the files as they should be."""
    from tiny_bop import write_tiny_bop
    from toy_bundle import write_toy_bundle
    from toy_hand import write_toy_hand

    bop, thing, hand = folder / "bop", folder / "thing", folder / "hand"
    write_tiny_bop(bop)
    write_toy_bundle(thing)
    write_toy_hand(hand)
    return {
        **_of_bop(bop),
        **_of_bundles(thing, hand),
        **_of_meshes(folder),
        **_of_hands(),
        **_of_settings(),
        **_of_archives(bop),
    }


def _content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def _of_bop(root: Path) -> dict[str, Boundary]:
    from fm_pose_core.objects.bop import BopDataset, read_results
    from fm_pose_core.objects.windows import read_windows

    def read_bop(folder: Path) -> None:
        for path, data in others.items():
            if not (folder / path).is_file():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
        dataset = BopDataset(folder)
        for model in dataset.objects.values():
            assert np.isfinite([*model.minimum, *model.maximum, model.diameter]).all()
        for x in dataset.instances("test"):
            assert np.isfinite(x.T_camera_object).all()
        dataset.targets()

    content = _content(root)
    texts = {k: v for k, v in content.items() if k.endswith(".json")}
    others = {k: v for k, v in content.items() if k not in texts}
    row = "1,2,1,0.9,1 0 0 0 1 0 0 0 1,10 20 500,0.05\n"
    results = ("scene_id,im_id,obj_id,score,R,t,time\n" + 3 * row).encode()
    found = [{"scene_id": 1, "image_id": 2, "category_id": 1, "score": 0.9, "bbox": [100, 50, 21, 11]}] * 2
    windows = b"scene_id,im_id,obj_id,u,v,score\n1,2,1,110,55,0.5\n1,3,1,10,5,0.5\n"
    return {
        "bop": Boundary(texts, changed_json, read_bop),
        "results": Boundary({"r.csv": results}, changed_csv, lambda f: read_results(f / "r.csv")),
        "detections": Boundary(
            {"d.json": json.dumps(found).encode()}, changed_json, lambda f: read_windows(f / "d.json")
        ),
        "windows": Boundary({"w.csv": windows}, changed_csv, lambda f: read_windows(f / "w.csv")),
    }


def _of_bundles(thing: Path, hand: Path) -> dict[str, Boundary]:
    from fm_pose_core.config import EngineConfig
    from fm_pose_core.runtime import load_backend
    from fm_pose_core.tasks import load_bundle

    def read(content: dict[str, bytes]) -> Callable[[Path], None]:
        def load(folder: Path) -> None:
            for path, data in content.items():
                if not (folder / path).is_file():
                    (folder / path).write_bytes(data)
            bundle = load_bundle(folder)
            bundle.describe()
            bundle.sample()

        return load

    def execute(folder: Path) -> None:
        """The network itself, with a checksum that fits."""
        import hashlib

        manifest = json.loads((thing / "manifest.json").read_text())
        manifest["network"]["sha256"] = hashlib.sha256((folder / "network.onnx").read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for name in others:
            (folder / name).write_bytes(others[name])
        bundle = load_bundle(folder)
        images = np.zeros((1, *bundle.contract.image_shape), bundle.contract.image_type)
        load_backend(bundle, EngineConfig(backend="onnxruntime", threads=1)).infer(images)

    result = {}
    for name, root in (("bundle", thing), ("hand_bundle", hand)):
        content = _content(root)
        text = {"manifest.json": content["manifest.json"]}
        result[name] = Boundary(text, changed_json, read(content))
    others = {k: v for k, v in _content(thing).items() if k not in ("manifest.json", "network.onnx")}
    network = {"network.onnx": (thing / "network.onnx").read_bytes()}
    return {**result, "network": Boundary(network, changed_bytes, execute)}


def _of_meshes(folder: Path) -> dict[str, Boundary]:
    from fm_pose_core.rendering.mesh import load_mesh, ply_file, read_triangles, read_vertices

    cube = b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    cube += b"element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    cube += b"0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n"
    (folder / "cube.ply").write_bytes(cube)
    files = {"a.ply": ply_file(load_mesh(folder / "cube.ply"), 1e-3), "b.ply": cube}

    def read(folder: Path) -> None:
        faults = []
        for name in files:
            for reader in (read_vertices, read_triangles, load_mesh):
                try:
                    reader(folder / name)
                except InputError as error:
                    faults.append(error)
        if faults:
            raise faults[0]

    return {"mesh": Boundary(files, changed_bytes, read)}


def _of_hands() -> dict[str, Boundary]:
    from fm_pose_core.hands.frames import read_frames
    from fm_pose_core.hands.labels import DATASETS, read_labels
    from fm_pose_core.hands.model import rigged

    lines = "".join(f"{k}.png " + " ".join(["100.0 120.0 600.0"] * 14) + "\n" for k in range(3)).encode()

    def read_rig(folder: Path) -> None:
        gltf, data = rigged._read_glb(folder / "h.glb")
        rigged._skin(gltf, data, rigged._world_transforms(gltf))

    def read_annotations(folder: Path) -> None:
        frames = read_frames("nyu", folder, "test")
        assert np.isfinite(frames.joints).all() and np.isfinite(frames.depth(0)).all()

    return {
        "annotations": Boundary(_annotations(), changed_bytes, read_annotations),
        "joints": Boundary({"l.txt": lines}, changed_csv, lambda f: read_labels(f / "l.txt", DATASETS["nyu"])),
        "rig": Boundary({"h.glb": small_rig()}, changed_glb, read_rig),
    }


def _annotations() -> dict[str, bytes]:
    """As NYU's: joints in a MATLAB file, and a depth map."""
    import cv2
    from scipy.io import savemat

    written = io.BytesIO()
    savemat(written, {"joint_uvd": np.full((3, 2, 36, 3), 500.0), "joint_names": np.array(["a"])}, do_compression=True)
    depth = np.full((48, 64, 3), 200, np.uint8)
    png = cv2.imencode(".png", depth)[1].tobytes()
    return {"test/joint_data.mat": written.getvalue(), "test/depth_1_0000001.png": png}


def small_rig() -> bytes:
    """A GLB of a triangle on two nodes."""
    position = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    joints, weights = np.zeros((3, 4), "u1").tobytes(), np.tile(np.array([1, 0, 0, 0], "<f4"), (3, 1)).tobytes()
    indices, bind = np.arange(3, dtype="<u2").tobytes() + b"\0\0", np.tile(np.eye(4, dtype="<f4"), (2, 1, 1)).tobytes()
    parts, views, accessors, start = (position, joints, weights, indices, bind), [], [], 0
    kinds = [("VEC3", 5126, 3), ("VEC4", 5121, 3), ("VEC4", 5126, 3), ("SCALAR", 5123, 3), ("MAT4", 5126, 2)]
    for k, (part, (kind, number, count)) in enumerate(zip(parts, kinds, strict=True)):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(part)})
        accessors.append({"bufferView": k, "componentType": number, "type": kind, "count": count})
        start += len(part)
    attributes = {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 2}
    gltf = {
        "nodes": [{"name": "a", "children": [1], "mesh": 0, "skin": 0}, {"name": "b", "rotation": [0, 0, 0, 1]}],
        "skins": [{"joints": [0, 1], "inverseBindMatrices": 4}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3}]}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text, data = json.dumps(gltf).encode(), b"".join(parts)
    head = b"glTF" + (2).to_bytes(4, "little") + (28 + len(text) + len(data)).to_bytes(4, "little")
    return head + len(text).to_bytes(4, "little") + b"JSON" + text + len(data).to_bytes(4, "little") + b"BIN\0" + data


def _of_settings() -> dict[str, Boundary]:
    from fm_pose_core.files import Frames
    from fm_pose_core.tasks import load_experiment

    training = b"""method: feature_mapping
data: {dataset: DIR, split: test, training_frames: 0-79, validation_frames: 80-99}
objects: [{id: 1, name: mine}]
crop: {size: 128, margin: 1.05}
synthetic: {viewpoints: {distance: [0.4, 1.0]}}
loss: {huber: 0.1, target_gradient: false}
schedule: {images: 1000, batch_pairs: 4, precision: fp32}
"""
    frames = b"3-248,474 # the first\n2/500-600 5/*\n"
    return {
        "configuration": Boundary({"c.yaml": training}, changed_yaml, lambda f: load_experiment(f / "c.yaml")),
        "frames": Boundary({"f.txt": frames}, changed_bytes, lambda f: Frames.parse(str(f / "f.txt"))),
    }


def _of_archives(root: Path) -> dict[str, Boundary]:
    import shutil
    import zipfile

    from fm_pose_core.objects.download import download_bop, read_checksums

    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _content(root / "models").items():
            archive.writestr(f"models/{name}", data)
    sums = "".join(f"{k:064x}  other_{k}.zip\n" for k in range(3)).encode()

    def read(folder: Path) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        download_bop("tiny", folder / "out", ["models"], str(folder), read_checksums(folder / "sums"))

    return {"archive": Boundary({"tiny_models.zip": written.getvalue(), "sums": sums}, changed_bytes, read)}


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boundaries", nargs="*", metavar="BOUNDARY", help="default: all")
    parser.add_argument("--cases", type=int, default=10_000, help="for each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "good").mkdir()
        for name, boundary in boundaries(Path(scratch) / "good").items():
            if arguments.boundaries and name not in arguments.boundaries:
                continue
            (Path(scratch) / name).mkdir()
            start = time.perf_counter()
            outcome = attack(boundary, Path(scratch) / name, arguments.cases, arguments.seed)
            took = time.perf_counter() - start
            print(f"{name}: {outcome.read} read, {outcome.refused} refused, {len(outcome.failed)} failed, {took:.1f} s")
            faults += len(outcome.failed)
            for line in outcome.failed[:20]:
                print(f"  {line}")
    raise SystemExit(faults > 0)


if __name__ == "__main__":
    main()
