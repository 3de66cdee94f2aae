"""Make demo/scene: a few photographs of Occlusion-LINEMOD with labels, small enough to keep in the repository.

python dev/demo_scene.py $FM_POSE_DATA/lmo config/labels/lmo demo/scene \\
    --frames 3,17,36,47,61,72,96,107,1038,1061,1098,1123
"""

import argparse
import json
import shutil
from pathlib import Path

import cv2

from fm_pose_core.files import read_image

QUALITY = 90  # of the JPEG files


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("root", type=Path, help="the dataset")
    p.add_argument("labels", type=Path, help="folder with SCENE/scene_gt.json")
    p.add_argument("output", type=Path)
    p.add_argument("--scene", default="000002")
    p.add_argument("--frames", required=True)
    args = p.parse_args()
    frames = args.frames.split(",")
    source, output = args.root / "test" / args.scene, args.output / "test" / args.scene
    (output / "rgb").mkdir(parents=True)
    (args.output / "models").mkdir()
    shutil.copy(args.root / "models" / "models_info.json", args.output / "models")
    truth = args.labels / args.scene / "scene_gt.json"
    for path in (truth, source / "scene_gt_info.json", source / "scene_camera.json"):
        values = json.loads(path.read_text())
        (output / path.name).write_text(json.dumps({k: values[k] for k in frames}))
    for frame in frames:
        name = f"{int(frame):06d}"
        image = read_image(source / "rgb" / f"{name}.png")
        cv2.imwrite(str(output / "rgb" / f"{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main()
