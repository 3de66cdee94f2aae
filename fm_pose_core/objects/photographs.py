"""Labelled real photographs of one object, prepared once: each becomes a patch seen by a virtual camera that looks
straight at the object, with its visible part and the CAD rendering of the same pose (for T^M).

Beyond the paper, `photo_colours` carries each photograph's colours over to the mesh, so that the renderer can show the
real object, under its real light, from viewpoints near the photographed one (`RealConfig.novel_views`).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, project, transform
from fm_pose_core.objects.bop import BopDataset, Instance
from fm_pose_core.objects.crop import Crop
from fm_pose_core.rendering.appearance import shade
from fm_pose_core.rendering.mesh import Mesh, load_mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.types import Window

Image = NDArray[np.uint8]
LIGHTS = 4  # lit renderings of each photographed pose


@dataclass(frozen=True)
class RealView:
    """A real object patch and what is drawn at the same pose.

    photo: (P, P, 3) uint8. visible: (P, P) uint8, the mask of what is not occluded (antialiased). cad: (P, P, 4) uint8
    premultiplied rendering of the whole object; lit_cads: the same under random lights. whole_surface, surface: (P, P,
    3) float16, the points of the whole and of the visible object, object frame, metres, NaN elsewhere. T_view_object:
    (4, 4) in the patch's camera. trusted: whether the visible mask agrees with the dataset's visible fraction
    (occluders without a mesh spoil it).
    """

    photo: Image
    visible: Image
    cad: Image
    lit_cads: tuple[Image, ...]
    whole_surface: NDArray[np.float16]
    surface: NDArray[np.float16]
    T_view_object: Array
    trusted: bool
    visible_fraction: float


def prepare_real_views(
    dataset: BopDataset, split: str, instances: list[Instance], mesh: Mesh, crop: Crop, center: Array
) -> tuple[list[RealView], NDArray[np.float32]]:
    """Patches of all `instances` (of one object), taken with the crop's focal length and 1.75 times its size, and
    the per-photo vertex colours (I, V, 3) float32 RGB, NaN where a vertex is not seen in a trusted photo."""
    expect(bool(instances), "real training instances", "at least one", "none")
    object_id = instances[0].object_id
    patch = Crop(int(crop.size * 1.75), crop.focal)
    others = {i: [] for i in range(len(instances))}  # type: dict[int, list[Instance]]
    scene: dict[tuple[int, int], list[Instance]] = {}
    for other in dataset.instances(split):
        scene.setdefault((other.scene_id, other.im_id), []).append(other)
    frames, rotations, photos = [], [], []
    for i, instance in enumerate(instances):
        uv = instance.camera.pixels(
            (instance.T_camera_object[:3, :3] @ center + instance.T_camera_object[:3, 3])[None]
        )[0]
        photo, R_camera_view = patch.cut(read_image(instance.image_path), instance.camera, Window(*uv))
        photos.append(photo)
        rotations.append(transform(R_camera_view.T, np.zeros(3)))
        others[i] = [o for o in scene[instance.scene_id, instance.im_id] if o.object_id != object_id]
        frames.append(rotations[i] @ instance.T_camera_object)
    occluding_depth = np.full((len(instances), patch.size, patch.size), np.inf, np.float32)
    for other_id in sorted({o.object_id for group in others.values() for o in group}):
        renderer = Renderer(
            load_mesh(dataset.model(other_id).mesh_path, 1e-3).simplified(6000), patch.K, patch.size, patch.size
        )
        for i, group in others.items():
            for other in (o for o in group if o.object_id == other_id):
                _, depth = renderer.render(rotations[i] @ other.T_camera_object)
                occluding_depth[i] = np.minimum(occluding_depth[i], np.where(depth > 0, depth, np.inf))
        renderer.close()
    renderer = Renderer(mesh, patch.K, patch.size, patch.size)
    rng = np.random.default_rng(0)
    views, colours = [], np.full((len(instances), len(mesh.vertices), 3), np.nan, np.float32)
    for i, instance in enumerate(instances):
        cad, depth = renderer.render(frames[i])
        hidden = (occluding_depth[i] < depth - 1e-3) | (depth == 0)
        unhidden = np.where(occluding_depth[i] < np.where(depth > 0, depth, np.inf) - 1e-3, 0, 255).astype(np.uint8)
        visible = np.minimum(cad[..., 3], cv2.GaussianBlur(unhidden, (3, 3), 0.6))
        fraction = float(visible.sum() / max(1, int(cad[..., 3].sum())))
        told = instance.visible_fraction
        trusted = bool(fraction > 0.3 and (np.isnan(told) or abs(fraction - told) < 0.08))
        whole = surface_points(depth, frames[i], patch.K)
        surface = np.where(hidden[..., None], np.float16(np.nan), whole)
        known = fraction if np.isnan(told) else told
        normals = renderer.render_normals(frames[i])
        lit = tuple(shade(cad, normals, rng) for _ in range(LIGHTS))
        views.append(RealView(photos[i], visible, cad, lit, whole, surface, frames[i], trusted, known))
        if trusted:
            front = np.where(hidden, 0.0, depth)
            seen = renderer.visible_vertices(frames[i], front, patch.K)
            sure = cv2.erode((visible > 250).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2)
            uv = project(patch.K, mesh.vertices @ frames[i][:3, :3].T + frames[i][:3, 3]).astype(np.float32)
            seen &= _at(sure * 255, uv) > 254
            colours[i, seen] = _at(photos[i], uv)[seen]
    renderer.close()
    return views, colours


def _at(image: Image, uv: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bilinear samples of (H, W[, C]) at (N, 2) pixels -> (N[, C]). In blocks, since OpenCV's remap is limited to 32766
    rows."""
    blocks = [cv2.remap(image, uv[i : i + 32000, None], None, cv2.INTER_LINEAR)[:, 0] for i in range(0, len(uv), 32000)]
    return np.concatenate(blocks)


def surface_points(depth: NDArray[np.float32], T_camera_object: Array, K: Array) -> NDArray[np.float16]:
    """Depth map (P, P) in metres, 0 where there is nothing -> (P, P, 3) points of the object, object frame, metres, NaN
    where there is nothing."""
    v, u = np.nonzero(depth > 0)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))], -1)
    points = np.full((*depth.shape, 3), np.nan, np.float16)
    points[v, u] = (rays * depth[v, u, None] - T_camera_object[:3, 3]) @ T_camera_object[:3, :3]
    return points


def photo_colours(
    colours: NDArray[np.float32], cad_colours: NDArray[np.uint8], least_seen: float = 0.12
) -> list[tuple[int, NDArray[np.uint8]]]:
    """Complete the vertex colours of each photograph: (index of the photo, (V, 3) uint8), for photos that show at least
    `least_seen` of the vertices. An unseen vertex gets its median colour over all photographs, moved by this
    photograph's mean difference from it; one that no photograph shows gets the CAD colour after the linear colour
    map that best explains the photographs.

    colours: (I, V, 3) from prepare_real_views. cad_colours: (V, 3).
    """
    known = ~np.isnan(colours[..., 0])  # (I, V)
    ever = known.any(0)
    median = np.full(colours.shape[1:], np.nan, np.float32)
    median[ever] = np.nanmedian(colours[:, ever], axis=0)
    cad = np.column_stack([cad_colours, np.full(len(cad_colours), 255.0)])
    linear_map = np.linalg.lstsq(cad[ever], median[ever], rcond=None)[0]
    median[~ever] = (cad @ linear_map)[~ever]
    result = []
    for i, seen in enumerate(known):
        if seen.mean() >= least_seen:
            gain = colours[i, seen].mean(0) / np.maximum(median[seen].mean(0), 1.0)
            filled = np.where(seen[:, None], colours[i], median * gain)
            result.append((i, np.clip(filled, 0, 255).astype(np.uint8)))
    return result
