"""`fm-pose`: verbs plus paths. Knobs of a training live in its YAML. Heavy imports happen inside the commands."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core import __version__
from fm_pose_core.config import EstimatorConfig, from_dict, parse_numbers
from fm_pose_core.errors import InputError, expect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fm_pose_core.objects.estimator import PoseEstimator

RAW = argparse.RawDescriptionHelpFormatter


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned: 0, 2 for bad input (one line on stderr), 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"fm-pose: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fm-pose: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `fm-pose … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at exit
        return 141
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fm-pose",
        description="6D object pose from one RGB image by feature mapping: train, evaluate, export, run.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    p = _command(
        verbs, "train", _train, "train a network", "fm-pose train config/train/lmo_duck.yaml --output runs/duck"
    )
    p.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of the experiment (not with --resume)")
    p.add_argument("--output", metavar="DIR", help="folder of the run (default: runs/ and the name of CONFIG)")
    p.add_argument("--resume", metavar="RUN_DIR", help="go on with this run from its last checkpoint")
    p.add_argument("--pretrained", metavar="RUN_DIR", help="skip the pretraining and take its result from another run")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of CONFIG, such as method=real_only or schedule.images=50000; may be repeated",
    )

    p = _command(
        verbs, "export", _export, "make a bundle from a run", "fm-pose export runs/duck models/duck --precision fp16"
    )
    p.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a training run")
    p.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR", help="folder to write")
    p.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp16", help="how weights are stored (default: %(default)s)"
    )

    p = _group(verbs, "evaluate", "score poses on a dataset")
    _add_evaluate_bop(p)
    _add_evaluate_hand(p)

    p = _command(
        verbs,
        "simulate",
        _simulate,
        "write a dataset of simulated photographs of the demo's object, or of hands",
        "fm-pose simulate demo_data",
    )
    p.add_argument(
        "output", type=Path, metavar="OUTPUT_DIR", help="folder to write: a BOP dataset, or for hands NYU's layout"
    )
    p.add_argument("--of", choices=("object", "hands"), default="object", help="what is seen (default: %(default)s)")
    p.add_argument(
        "--photos", type=int, metavar="N", help="labelled training images (default: 120 of the object, 2000 of hands)"
    )
    p.add_argument("--frames", type=int, metavar="N", help="frames of the sequence, split test (default: 90, 500)")
    p.add_argument(
        "--mesh", type=Path, metavar="FILE.glb", help="rigged hand to photograph instead of our own, with --mapping"
    )
    p.add_argument(
        "--mapping", type=Path, metavar="FILE.yaml", help="names of the rigged hand's nodes, as config/hand/webxr.yaml"
    )
    p.add_argument(
        "--sensor",
        choices=("structured_light", "time_of_flight"),
        default="structured_light",
        help="depth sensor (default: %(default)s)",
    )
    p.add_argument(
        "--fingers",
        choices=("gestures", "free"),
        default="gestures",
        help="hands make gestures, or bend each finger by itself at random (default: %(default)s)",
    )
    p.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of set-ups, viewpoints and noise (default: %(default)s)"
    )
    p.add_argument(
        "--quality", type=int, default=82, metavar="Q", help="of the JPEG files, 1 to 100 (default: %(default)s)"
    )

    p = _group(verbs, "download", "get a dataset")
    _add_download_bop(p)

    p = _command(
        verbs,
        "infer",
        _infer,
        "pose of one object in one image",
        "fm-pose infer --bundle models/duck --image 3.png --camera 572.4,573.6,325.3,242.0 --window 310,220 --output overlay.png",
    )
    p.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle of the object")
    p.add_argument("--image", type=Path, required=True, metavar="FILE", help="image file (PNG, JPEG, …)")
    p.add_argument(
        "--camera",
        required=True,
        metavar="FX,FY,CX,CY",
        help="focal lengths and principal point in pixels; the image without distortion",
    )
    p.add_argument(
        "--window",
        required=True,
        metavar="U,V",
        help="about where the object's centre is, pixels (0,0: the centre of the top-left pixel)",
    )
    p.add_argument(
        "--output", type=Path, metavar="FILE", help="also draw the object's box and axes into a copy of the image"
    )
    _add_engine_options(p)

    p = _group(verbs, "bundle", "look into a bundle")
    p = _command(p, "show", _bundle_show, "check a bundle and print its contents", "fm-pose bundle show models/duck")
    p.add_argument("bundle", type=Path, metavar="DIR", help="bundle")

    p = _command(
        verbs,
        "engine",
        _engine,
        "build a TensorRT engine; with tensorrt_rtx also without a GPU",
        "fm-pose engine models/duck duck_sm89.engine --compute-capability 8.9",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle to build from")
    p.add_argument("output", type=Path, metavar="OUT", help="engine file to write")
    p.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="of the GPU that will run it, e.g. 8.9 (default: the GPU of this machine)",
    )
    p.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="arithmetic (default: %(default)s)")
    return parser


def _command(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], help_text: str, example: str
) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=RAW,
    )
    p.set_defaults(run=run)
    return p


def _group(verbs: Any, name: str, help_text: str) -> Any:
    p = verbs.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    return p.add_subparsers(dest="what", required=True, metavar="WHAT")


def _add_engine_options(p: argparse.ArgumentParser) -> None:
    for name in ("backend", "precision"):
        f = EstimatorConfig.__dataclass_fields__[name]
        p.add_argument(
            f"--{name}",
            choices=f.metadata["choices"],
            default=f.default,
            help=f"{f.metadata['description']} (default: %(default)s)",
        )
    f = EstimatorConfig.__dataclass_fields__["views"]
    p.add_argument(
        "--views", type=int, default=f.default, metavar="N", help=f"{f.metadata['description']} (default: %(default)s)"
    )


def _estimator_config(args: argparse.Namespace, **more: object) -> EstimatorConfig:
    return from_dict(
        EstimatorConfig, {"backend": args.backend, "precision": args.precision, "views": args.views, **more}
    )


def _add_evaluate_bop(group: Any) -> None:
    example = "fm-pose evaluate bop --bundle models/duck --root data/lmo --split test --window gt --csv duck.csv --output report"
    p = _command(group, "bop", _evaluate_bop, "score bundles, or a result file, on a dataset in BOP format", example)
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--bundle",
        type=Path,
        action="append",
        metavar="DIR",
        help="bundle to evaluate; may be given several times, once per object",
    )
    source.add_argument("--results", type=Path, metavar="FILE.csv", help="score this BOP result file instead")
    p.add_argument(
        "--root",
        type=Path,
        required=True,
        metavar="BOP_DIR",
        help="the dataset: models/ (or models_eval/) and the split's folder",
    )
    p.add_argument("--split", default="test", help="folder with the scenes (default: %(default)s)")
    p.add_argument(
        "--window",
        default="gt",
        metavar="gt|FILE",
        help="centre of the window: gt (true projection of the box's centre), or 2D detections: BOP .json, "
        "or .csv with scene_id,im_id,obj_id,u,v[,score] (default: %(default)s)",
    )
    p.add_argument(
        "--displace",
        type=float,
        default=0.0,
        metavar="PX",
        help="move each window by a random vector from a disc of this radius, pixels (default: %(default)s)",
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of --displace (default: %(default)s)")
    p.add_argument("--csv", type=Path, metavar="OUT.csv", help="write the accepted poses as a BOP result file (mm, s)")
    p.add_argument(
        "--output",
        type=Path,
        metavar="REPORT_DIR",
        help="write evaluation.json and index.html (curves, calibration, pictures)",
    )
    p.add_argument("--frames", metavar="IDS", help='image ids to take: "3-300,474", or a text file with such entries')
    p.add_argument(
        "--object",
        type=int,
        action="append",
        metavar="ID",
        help="with --results: score this object alone; may be repeated",
    )
    p.add_argument(
        "--min-visibility",
        type=float,
        default=0.1,
        metavar="F",
        help="in a dataset without targets file: least visible fraction (default: %(default)s)",
    )
    p.add_argument(
        "--all-instances",
        action="store_true",
        help="score every annotated instance, whatever the targets file or the visibility",
    )
    p.add_argument(
        "--keep-rejected",
        action="store_true",
        help="count poses that the estimator's own gate refused, too (default: they are absent, so failures)",
    )
    _add_engine_options(p)


def _add_evaluate_hand(group: Any) -> None:
    example = "fm-pose evaluate hand --dataset nyu --groundtruth labels.txt --predictions ours.txt theirs.txt --figure figure7.png"
    p = _command(
        group,
        "hand",
        _evaluate_hand,
        "score 3D hand joints, from files in the published format or by running a bundle",
        example,
    )
    p.add_argument("--dataset", required=True, choices=("nyu", "icvl"), help="its camera and its joints")
    p.add_argument("--groundtruth", type=Path, metavar="FILE", help="true joints: u v d of each, a line per frame")
    p.add_argument(
        "--predictions", type=Path, nargs="+", default=[], metavar="FILE", help="predicted joints in the same format"
    )
    p.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="run this bundle on the depth maps of --root",
    )
    p.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the dataset's depth maps and annotations, for --bundle"
    )
    p.add_argument("--split", default="test", help="with --root (default: %(default)s)")
    p.add_argument(
        "--window",
        choices=("gt", "search"),
        default="gt",
        help="cube near the true joints, or where the estimator finds the hand (default: %(default)s)",
    )
    p.add_argument("--refine", action="store_true", help="cut a second time around the first answer")
    p.add_argument("--mirror", action="store_true", help="the hands are of the other side than the bundle's")
    p.add_argument(
        "--save", type=Path, metavar="DIR", help="write the bundles' predictions there, in the published format"
    )
    p.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw the fraction of frames with all joints within a distance (Figure 7)",
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the scores as JSON")
    _add_engine_options(p)


def _add_download_bop(group: Any) -> None:
    p = _command(
        group,
        "bop",
        _download_bop,
        "fetch a dataset of the BOP benchmark",
        "fm-pose download bop --dataset lmo --parts base,models,test_bop19 --output data",
    )
    p.add_argument(
        "--dataset", required=True, metavar="NAME", help="lm, lmo, tless, tudl, icbin, itodd, hb, ycbv, hope, …"
    )
    p.add_argument(
        "--parts",
        default="base,models,test_bop19",
        metavar="A,B",
        help="archives NAME_PART.zip to get, e.g. base,models,test_all,train_pbr (default: %(default)s)",
    )
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder in which the folder NAME is made")
    p.add_argument(
        "--mirror",
        metavar="URL|DIR",
        help="take the archives from this web address or folder (default: the BOP hub on huggingface.co)",
    )
    p.add_argument("--checksums", type=Path, metavar="FILE", help="SHA-256 of the archives, as sha256sum writes them")


# --- commands --------------------------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> None:
    # Torch and the data process share the cores: torch's waiting threads shall sleep, not spin (a sixth of the speed on
    # two cores), and a software rasteriser shall keep to one core. Both are read when the libraries load.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("LP_NUM_THREADS", "1")
    from fm_pose_core.learning.trainer import main as train

    train(args)


def _export(args: argparse.Namespace) -> None:
    from fm_pose_core.learning.export import main as export

    export(args)


def _evaluate_bop(args: argparse.Namespace) -> None:
    from fm_pose_core.files import parse_ids
    from fm_pose_core.objects.bop import BopDataset, read_results, write_results
    from fm_pose_core.objects.evaluation import evaluate_bop, evaluate_results

    dataset = BopDataset(args.root)
    frames = parse_ids(args.frames) if args.frames else None
    expect(0 <= args.min_visibility <= 1, "--min-visibility", "a fraction from 0 to 1", args.min_visibility)
    if args.results:
        given = [
            option
            for option, value in (
                ("--csv", args.csv),
                ("--displace", args.displace),
                ("--keep-rejected", args.keep_rejected),
            )
            if value
        ]
        expect(not given, "--results", "no option that is about running a bundle", ", ".join(given))
        evaluation = evaluate_results(
            dataset,
            args.split,
            read_results(args.results),
            args.object,
            frames=frames,
            min_visibility=args.min_visibility,
            all_instances=args.all_instances,
        )
        evaluation.settings["results"] = str(args.results)
    else:
        expect(not args.object, "--object", "to be used with --results", "--bundle")
        estimators, description = _load_estimators(args)
        evaluation = evaluate_bop(
            dataset,
            args.split,
            estimators,
            window=args.window,
            displace=args.displace,
            seed=args.seed,
            frames=frames,
            min_visibility=args.min_visibility,
            all_instances=args.all_instances,
            keep_rejected=args.keep_rejected,
            show_progress=sys.stderr.isatty(),
        )
        evaluation.settings.update(description)
    evaluation.settings["frames"] = args.frames
    print(evaluation.table())
    if args.csv:
        write_results(args.csv, evaluation.results())
    if args.output:
        from fm_pose_core.objects.report import write_report

        print(f"report: {write_report(evaluation, dataset, args.output)}")


def _evaluate_hand(args: argparse.Namespace) -> None:
    import json

    from fm_pose_core.files import write_atomically
    from fm_pose_core.hands.evaluation import draw_figure_7, predict_joints, score_joints, table
    from fm_pose_core.hands.labels import DATASETS, read_labels, write_joints

    dataset = DATASETS[args.dataset]
    expect(bool(args.predictions or args.bundle), "evaluate hand", "--predictions or --bundle", "neither")
    expect(not args.predictions or args.groundtruth is not None, "--groundtruth", "a file, with --predictions", "none")
    expect(not args.bundle or args.root is not None, "--root", "the dataset's folder, with --bundle", "none")
    scores = []
    if args.predictions:
        truth = read_labels(args.groundtruth, dataset)[1]
        scores += [
            score_joints(path.stem, truth, read_labels(path, dataset)[1], dataset.joints) for path in args.predictions
        ]
    if args.bundle:
        from fm_pose_core.hands.estimator import HandEstimator
        from fm_pose_core.hands.frames import read_frames

        frames = read_frames(args.dataset, args.root, args.split)
        for path in args.bundle:
            estimator = HandEstimator.load(
                path, _estimator_config(args, min_score=0.0), refine=args.refine, mirror=args.mirror
            )
            joints = predict_joints(estimator, frames, args.window == "gt", sys.stderr.isatty())
            scores.append(score_joints(path.name, frames.joints, joints, dataset.joints))
            if args.save:
                write_joints(args.save / f"{path.name}.txt", frames.dataset, joints)
    print(table(scores))
    if args.figure:
        draw_figure_7(scores, args.figure)
    if args.json:
        write_atomically(args.json, json.dumps([s.to_json() for s in scores], indent=2).encode())


def _load_estimators(args: argparse.Namespace) -> "tuple[dict[int, PoseEstimator], dict[str, Any]]":
    """The estimators by object id, and what to note about them."""
    from fm_pose_core.objects.estimator import PoseEstimator

    config = _estimator_config(args)
    estimators: dict[int, PoseEstimator] = {}
    for path in args.bundle:
        estimator = PoseEstimator.load(path, config)
        object_id = estimator.bundle.object_id
        expect(object_id not in estimators, "--bundle", "one bundle per object", f"two of object {object_id}")
        estimators[object_id] = estimator
    first = next(iter(estimators.values()))
    engine = f"{first.backend.name} {first.backend.precision} on {first.backend.device}"
    return estimators, {
        "bundles": [str(b) for b in args.bundle],
        "backend": engine,
        "views": config.views,
        "fm_pose_version": __version__,
    }


def _download_bop(args: argparse.Namespace) -> None:
    from fm_pose_core.objects.download import download_bop, read_checksums

    parts = [part.strip() for part in args.parts.split(",") if part.strip()]
    expect(bool(parts), "--parts", "names separated by commas", repr(args.parts))
    checksums = read_checksums(args.checksums) if args.checksums else None
    print(download_bop(args.dataset, args.output, parts, args.mirror, checksums))


def _simulate(args: argparse.Namespace) -> None:
    photos, frames = (120, 90) if args.of == "object" else (2000, 500)
    photos = photos if args.photos is None else args.photos
    frames = frames if args.frames is None else args.frames
    expect(photos >= 0, "--photos", "a number from 0", photos)
    expect(frames >= 0, "--frames", "a number from 0", frames)
    expect(args.seed >= 0, "--seed", "a number from 0", args.seed)
    if args.of == "object":
        expect(args.fingers == "gestures", "--fingers", "to come with --of hands", "--of object")
        from fm_pose_core.simulation.dataset import simulate

        expect(1 <= args.quality <= 100, "--quality", "a number from 1 to 100", args.quality)
        print(simulate(args.output, photos, frames, args.seed, args.quality))
        return
    from fm_pose_core.config import read_yaml
    from fm_pose_core.hands.model.rigged import rigged_hand
    from fm_pose_core.simulation.depth_sensor import DepthSensorConfig
    from fm_pose_core.simulation.hands import simulate_hands

    expect((args.mesh is None) == (args.mapping is None), "--mesh and --mapping", "both or neither", "one")
    hand = rigged_hand(args.mesh, read_yaml(args.mapping)) if args.mesh else None
    sensor = DepthSensorConfig(kind=args.sensor)
    print(simulate_hands(args.output, photos, frames, args.seed, hand, sensor, args.fingers, sys.stderr.isatty()))


def _infer(args: argparse.Namespace) -> None:
    import numpy as np

    from fm_pose_core.files import read_image
    from fm_pose_core.geometry import quaternion_from_rotation
    from fm_pose_core.objects.estimator import PoseEstimator
    from fm_pose_core.types import Camera, Window

    fx, fy, cx, cy = parse_numbers("--camera", args.camera, 4)
    image = read_image(args.image)
    camera = Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), image.shape[1], image.shape[0])
    estimator = PoseEstimator.load(args.bundle, _estimator_config(args))
    pose = estimator.estimate(image, camera, Window(*parse_numbers("--window", args.window, 2)))
    T = pose.T_camera_object
    print(f"object       {estimator.bundle.name}")
    print(f"accepted     {'yes' if pose.accepted else 'no: ' + pose.reason}")
    print(f"position     {T[0, 3]:.4f} {T[1, 3]:.4f} {T[2, 3]:.4f} m (camera frame: x right, y down, z forward)")
    print("orientation  " + " ".join(f"{x:.5f}" for x in quaternion_from_rotation(T[:3, :3])) + " (x y z w)")
    print(f"score        {pose.score:.3f}")
    print(f"reprojection {pose.reprojection_error:.2f} px")
    if args.output:
        from fm_pose_core.files import write_atomically
        from fm_pose_core.objects.overlay import draw_pose

        if np.isfinite(pose.reprojection_error):
            image = draw_pose(image, camera, T, estimator.bundle.box_corners, corners=pose.corners)
        write_atomically(args.output, _encode(image, args.output))


def _encode(image: "NDArray[np.uint8]", path: Path) -> bytes:
    import cv2

    try:
        return bytes(cv2.imencode(path.suffix, image[..., ::-1])[1])
    except cv2.error:
        raise InputError(
            f"{path}: expected the suffix of an image format, as .png or .jpg, got {path.suffix!r}"
        ) from None


def _bundle_show(args: argparse.Namespace) -> None:
    from fm_pose_core.bundle import Bundle, HandBundle, ObjectBundle

    bundle = Bundle.load(args.bundle)
    m = bundle.manifest
    size = sum(p.stat().st_size for p in bundle.path.iterdir() if p.is_file()) / 1e6
    if isinstance(bundle, ObjectBundle):
        print(f"object       {bundle.name} (id {bundle.object_id})")
        print(
            "box          "
            + " x ".join(f"{1e3 * x:.1f}" for x in bundle.dimensions)
            + f" mm, diameter {1e3 * bundle.diameter:.1f} mm, {len(bundle.symmetries)} symmetries besides the identity"
        )
        print(f"mesh         {bundle.mesh_path.name if bundle.mesh_path else 'none'}")
        print(
            f"window       {bundle.crop.size} x {bundle.crop.size} pixels, focal length {bundle.crop.focal:.1f} pixels"
        )
    if isinstance(bundle, HandBundle):
        hand = bundle.hand
        print(f"hand         {bundle.name} ({'left' if hand.left else 'right'}): {', '.join(hand.joints)}")
        print(f"window       {hand.size} x {hand.size} pixels of a cube of {1e3 * hand.cube:.0f} mm")
    print(
        f"network      {m.network.file}, sha256 {m.network.sha256[:16]}…, {m.network.architecture.get('name', m.network.architecture)}"
    )
    print(f"made with    fm_pose {m.fm_pose_version}")
    print(f"size         {size:.1f} MB, all checksums agree")


def _engine(args: argparse.Namespace) -> None:
    from fm_pose_core.bundle import Bundle
    from fm_pose_core.files import write_atomically
    from fm_pose_core.runtime.tensorrt_backend import build_engine

    engine = build_engine(Bundle.load(args.bundle), args.compute_capability, args.precision)
    write_atomically(args.output, engine)
    print(f"{args.output}: {len(engine) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
