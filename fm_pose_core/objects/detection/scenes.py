"""Photographs for the detector's training, prepared once: as a virtual camera sees them whole, with the models of all
objects drawn over a copy."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fm_pose_core.files import read_image
from fm_pose_core.geometry import apply, project, transform
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.detection.detector import whole_image
from fm_pose_core.objects.detection.samples import MOST, NOBODY, Scene
from fm_pose_core.objects.samples import ObjectAssets
from fm_pose_core.objects.surroundings import over
from fm_pose_core.rendering.renderer import Renderer

SHOWN = 0.1  # visible fraction from which on an object is one, as in the BOP benchmark


def prepare_scenes(instances: Sequence[Instance], assets: dict[int, ObjectAssets], size: int) -> list[Scene]:
    """Of each image of `instances`, which are all that is to be found in them. assets: by object id. size: of the
    detector's image, pixels."""
    images: dict[Path, list[Instance]] = defaultdict(list)
    for x in instances:
        images[x.image_path].append(x)
    renderers: dict[int, Renderer] = {}
    try:
        return [_scene(path, group, assets, size, renderers) for path, group in images.items()]
    finally:
        for renderer in renderers.values():
            renderer.close()


def _scene(
    path: Path, group: list[Instance], assets: dict[int, ObjectAssets], size: int, renderers: dict[int, Renderer]
) -> Scene:
    camera = group[0].camera
    crop, R_camera_view = whole_image(camera, size)
    photo = crop.cut_all(read_image(path), camera, [R_camera_view])[0]
    rendered, owner = photo, np.full((size, size), NOBODY, np.int8)
    T_view_camera = transform(R_camera_view.T, np.zeros(3))
    group = sorted(group, key=lambda x: -x.T_camera_object[2, 3])[:MOST]  # the far ones are drawn first
    nearest, centres, depths = np.full((size, size), np.inf, np.float32), [], []
    for number, x in enumerate(group):
        own = assets[x.object_id]
        if x.object_id not in renderers:
            renderers[x.object_id] = Renderer(own.mesh, crop.K, size, size)
        renderer, T = renderers[x.object_id], T_view_camera @ x.T_camera_object
        renderer.look_through(crop.K)
        rgba, depth = renderer.render(T)
        shown = not x.visible_fraction < SHOWN  # NaN: it may be
        if shown:  # else something without a mesh stands before it
            rendered = over(rgba, rendered)
        front = (depth > 0) & (depth < nearest)
        owner[front] = number if shown else NOBODY
        nearest[front] = depth[front]
        centre = apply(T, own.center[None])
        centres.append(project(crop.K, centre)[0])
        depths.append(centre[0, 2] / own.diagonal)
    objects = np.array([assets[x.object_id].index for x in group])
    return Scene(photo, rendered, owner, objects, np.array(centres), np.array(depths), crop.K)
