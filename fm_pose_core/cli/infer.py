"""`fm-pose infer`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core.cli.options import add_engine_options, command, estimator_config
from fm_pose_core.config import EstimatorConfig, parse_numbers
from fm_pose_core.errors import InputError, expect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fm_pose_core.types import ObjectPose


def add(verbs: Any, text: str) -> None:
    example = "fm-pose infer --bundle models/lmo --image 3.png --camera 572.4,573.6,325.3,242.0 --output overlay.png"
    p = command(verbs, "infer", run, text, example)
    p.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle of the objects")
    p.add_argument("--image", type=Path, required=True, metavar="FILE", help="image file (PNG, JPEG, …)")
    text = "focal lengths and principal point in pixels; the image without distortion"
    p.add_argument("--camera", required=True, metavar="FX,FY,CX,CY", help=text)
    text = (
        "about where the object's centre is, pixels (0,0: the centre of the top-left pixel); without it the bundle's "
        "detector finds all objects"
    )
    p.add_argument("--window", metavar="U,V", help=text)
    text = "name of the object, where the bundle knows several"
    p.add_argument("--object", default="", metavar="NAME", help=text)
    text = "also draw the object's box and axes into a copy of the image"
    p.add_argument("--output", type=Path, metavar="FILE", help=text)
    add_engine_options(p, "backend", "precision", "views", "refine", "support")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from fm_pose_core.files import read_image, write_atomically
    from fm_pose_core.objects.estimator import PoseEstimator
    from fm_pose_core.objects.overlay import draw_pose
    from fm_pose_core.types import Camera, Window

    fx, fy, cx, cy = parse_numbers("--camera", args.camera, 4)
    image = read_image(args.image)
    camera = Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), image.shape[1], image.shape[0])
    config = estimator_config(EstimatorConfig, args, refine=args.refine, support=args.support)
    estimator = PoseEstimator.load(args.bundle, config)
    if args.window is None:
        expect(estimator.can_detect, "--window", "U,V, since the bundle has no detector", "none")
        if args.object:
            estimator.bundle.object(args.object)
        found = [x for x in estimator.find(image, camera) if args.object in ("", x[0].object)]
    else:
        u, v = parse_numbers("--window", args.window, 2)
        window = Window(u, v, args.object)
        found = [(window, estimator.estimate(image, camera, window))]
    for k, (window, pose) in enumerate(found):
        known = estimator.bundle.object(window.object)
        print("\n" * (k > 0), end="")
        _show(known.name, pose)
        if args.output and np.isfinite(pose.reprojection_error):
            image = draw_pose(image, camera, pose.T_camera_object, known.box_corners, corners=pose.corners)
    if not found:
        print("no object found")
    if args.output:
        write_atomically(args.output, _encode(image, args.output))


def _show(name: str, pose: "ObjectPose") -> None:
    from fm_pose_core.geometry import quaternion_from_rotation

    T = pose.T_camera_object
    print(f"object       {name}")
    print(f"accepted     {'yes' if pose.accepted else 'no: ' + pose.reason}")
    print(f"position     {T[0, 3]:.4f} {T[1, 3]:.4f} {T[2, 3]:.4f} m (camera frame: x right, y down, z forward)")
    print("orientation  " + " ".join(f"{x:.5f}" for x in quaternion_from_rotation(T[:3, :3])) + " (x y z w)")
    print(f"score        {pose.score:.3f}")
    print(f"reprojection {pose.reprojection_error:.2f} px")


def _encode(image: "NDArray[np.uint8]", path: Path) -> bytes:
    import cv2

    try:
        return bytes(cv2.imencode(path.suffix, image[..., ::-1])[1])
    except cv2.error:
        raise InputError(
            f"{path}: expected the suffix of an image format, as .png or .jpg, got {path.suffix!r}"
        ) from None
