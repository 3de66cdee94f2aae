"""Labelled real photographs of one object, prepared once: each becomes a patch seen by a virtual camera that looks
straight at the object, with its visible part and the CAD rendering of the same pose (for T^M).

Beyond the paper, `photo_colours` carries each photograph's colours over to the mesh, so that the renderer can show the
real object, under its real light, from viewpoints near the photographed one (`RealConfig.novel_views`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, project, transform
from fm_pose_core.objects.bop import MM, BopDataset, Instance
from fm_pose_core.objects.crop import Crop
from fm_pose_core.rendering.appearance import shade
from fm_pose_core.rendering.mesh import Mesh, load_mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.types import Window

Image = NDArray[np.uint8]
LIGHTS = 4  # lit renderings of each photographed pose
OCCLUDER_FACES = 6000  # triangles of what stands before the object
OCCLUDED = 1e-3  # metres: what is nearer than the object by more than this hides it


@dataclass(frozen=True)
class RealView:
    """A real object patch and what is drawn at the same pose.

    photo: (P, P, 3) uint8. visible: (P, P) uint8, the mask of what is not occluded (antialiased). cad: (P, P, 4) uint8
    premultiplied rendering of the whole object; lit_cads: the same under random lights, if there are to be any.
    surface: (P, P, 3) float16, the points of the whole object, object frame, metres, NaN elsewhere; hidden: (P, P),
    where another object stands before it. T_view_object: (4, 4) in the patch's camera. trusted: whether the visible
    mask agrees with the dataset's visible fraction (occluders without a mesh spoil it).
    """

    photo: Image
    visible: Image
    cad: Image
    lit_cads: tuple[Image, ...]
    surface: NDArray[np.float16]
    hidden: NDArray[np.bool_]
    T_view_object: Array
    trusted: bool
    visible_fraction: float


@dataclass(frozen=True)
class _Patch:
    """photo (P, P, 3). T_view_camera, T_view_object (4, 4): of the virtual camera that took it."""

    photo: Image
    T_view_camera: Array
    T_view_object: Array


def prepare_real_views(
    dataset: BopDataset,
    split: str,
    instances: list[Instance],
    mesh: Mesh,
    camera: Crop,
    center: Array,
    lights: int = LIGHTS,
) -> tuple[list[RealView], NDArray[np.float32]]:
    """Patches of all `instances` (of one object) that the virtual `camera` sees (Crop.patch), each with so many lit
    renderings, and the per-photo vertex colours (I, V, 3) float32 RGB, NaN where a vertex is not seen in a trusted
    photo."""
    expect(bool(instances), "real training instances", "at least one", "none")
    patches = [_patch(x, camera, center) for x in instances]
    others = others_in_image(instances, dataset.instances(split))
    occluders = occluding_depth(dataset, others, [p.T_view_camera for p in patches], camera)
    renderer = Renderer(mesh, camera.K, camera.size, camera.size)
    rng = np.random.default_rng(0)
    views, colours = [], np.full((len(instances), len(mesh.vertices), 3), np.nan, np.float32)
    for i, (instance, patch) in enumerate(zip(instances, patches, strict=True)):
        told = instance.visible_fraction
        view, front = _real_view(patch, occluders[i], told, renderer, camera.K, lights, rng)
        views.append(view)
        if view.trusted:
            seen, uv = _seen_vertices(view, front, renderer, camera.K)
            colours[i, seen] = _at(patch.photo, uv)[seen]
    renderer.close()
    return views, colours


def _patch(instance: Instance, camera: Crop, center: Array) -> _Patch:
    """The photograph as a virtual camera sees it that looks at the object's `center` (3,)."""
    uv = instance.camera.pixels(apply(instance.T_camera_object, center[None]))[0]
    photo, R_camera_view = camera.cut(read_image(instance.image_path), instance.camera, Window(*uv))
    T_view_camera = transform(R_camera_view.T, np.zeros(3))
    return _Patch(photo, T_view_camera, T_view_camera @ instance.T_camera_object)


def others_in_image(instances: Sequence[Instance], everything: Sequence[Instance]) -> list[list[Instance]]:
    """For each of the instances, the other objects in its image, of `everything` that is labelled."""
    scene: dict[tuple[int, int], list[Instance]] = {}
    for other in everything:
        scene.setdefault((other.scene_id, other.im_id), []).append(other)
    return [[o for o in scene[x.scene_id, x.im_id] if o.object_id != x.object_id] for x in instances]


def occluding_depth(
    dataset: BopDataset, others: Sequence[Sequence[Instance]], T_view_camera: Sequence[Array], camera: Crop
) -> NDArray[np.float32]:
    """(I, P, P) depth of the nearest of the `others` of each of I images, metres, infinite without any, as the crop's
    camera sees it with T_view_camera (4, 4)."""
    nearest = np.full((len(others), camera.size, camera.size), np.inf, np.float32)
    for object_id in sorted({o.object_id for group in others for o in group}):  # a renderer holds one mesh
        mesh = load_mesh(dataset.model(object_id).mesh_path, MM).simplified(OCCLUDER_FACES)
        renderer = Renderer(mesh, camera.K, camera.size, camera.size)
        for i, group in enumerate(others):
            for other in (o for o in group if o.object_id == object_id):
                _, depth = renderer.render(T_view_camera[i] @ other.T_camera_object)
                nearest[i] = np.minimum(nearest[i], np.where(depth > 0, depth, np.inf))
        renderer.close()
    return nearest


def _real_view(
    patch: _Patch,
    occluder: NDArray[np.float32],
    told: float,
    renderer: Renderer,
    K: Array,
    lights: int,
    rng: np.random.Generator,
) -> tuple[RealView, NDArray[np.float32]]:
    """The view, and the depth of its visible part (P, P) metres, 0 elsewhere. told: the dataset's visible fraction."""
    T = patch.T_view_object
    cad, depth = renderer.render(T)
    behind = occluder < np.where(depth > 0, depth, np.inf) - OCCLUDED
    hidden = behind | (depth == 0)
    unhidden = np.where(behind, 0, 255).astype(np.uint8)
    visible = np.minimum(cad[..., 3], cv2.GaussianBlur(unhidden, (3, 3), 0.6))
    fraction = float(visible.sum() / max(1, int(cad[..., 3].sum())))
    trusted = bool(fraction > 0.3 and (np.isnan(told) or abs(fraction - told) < 0.08))
    lit: tuple[Image, ...] = ()
    if lights:
        normals = renderer.render_normals(T)
        lit = tuple(shade(cad, normals, rng) for _ in range(lights))
    known = fraction if np.isnan(told) else told
    view = RealView(patch.photo, visible, cad, lit, surface_points(depth, T, K), behind, T, trusted, known)
    return view, np.where(hidden, np.float32(0), depth)


def _seen_vertices(
    view: RealView, front: NDArray[np.float32], renderer: Renderer, K: Array
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """(V,) which vertices the photograph surely shows, and their pixels (V, 2)."""
    T = view.T_view_object
    seen = renderer.visible_vertices(T, front, K)
    sure = cv2.erode((view.visible > 250).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2)
    uv = project(K, apply(T, renderer.mesh.vertices)).astype(np.float32)
    return seen & (_at(sure * 255, uv) > 254), uv


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
