"""`fm-pose bundle`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core.cli.options import command, group

if TYPE_CHECKING:
    from fm_pose_core.bundle import HandBundle, ObjectBundle


def add(verbs: Any) -> None:
    what = group(verbs, "bundle", "look into a bundle")
    p = command(what, "show", run, "check a bundle and print its contents", "fm-pose bundle show models/duck")
    p.add_argument("bundle", type=Path, metavar="DIR", help="bundle")


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.bundle import Bundle, HandBundle, ObjectBundle

    bundle = Bundle.load(args.bundle)
    if isinstance(bundle, ObjectBundle):
        _show_object(bundle)
    if isinstance(bundle, HandBundle):
        _show_hand(bundle)
    network = bundle.manifest.network
    size = sum(p.stat().st_size for p in bundle.path.iterdir() if p.is_file()) / 1e6
    print(f"network      {network.file}, sha256 {network.sha256[:16]}…, {architecture_text(network.architecture)}")
    print(f"made with    fm_pose {bundle.manifest.fm_pose_version}")
    print(f"size         {size:.1f} MB, all checksums agree")


def _show_object(bundle: "ObjectBundle") -> None:
    box = " x ".join(f"{1e3 * x:.1f}" for x in bundle.dimensions)
    symmetries = f"{len(bundle.symmetries)} symmetries besides the identity"
    crop = bundle.crop
    print(f"object       {bundle.name} (id {bundle.object_id})")
    print(f"box          {box} mm, diameter {1e3 * bundle.diameter:.1f} mm, {symmetries}")
    print(f"mesh         {bundle.mesh_path.name if bundle.mesh_path else 'none'}")
    print(f"window       {crop.size} x {crop.size} pixels, focal length {crop.focal:.1f} pixels")


def _show_hand(bundle: "HandBundle") -> None:
    hand = bundle.hand
    print(f"hand         {bundle.name} ({'left' if hand.left else 'right'}): {', '.join(hand.joints)}")
    print(f"window       {hand.size} x {hand.size} pixels of a cube of {1e3 * hand.cube:.0f} mm")


def architecture_text(architecture: dict[str, Any]) -> str:
    """A NetworkConfig as text, such as "compact, width 24, 256 features, with mapping g"."""
    extractor = architecture.get("extractor")
    if extractor is None:  # a network that was not made here
        return "architecture unknown"
    text = [extractor]
    if extractor in ("compact", "compact_global"):  # the others have the published sizes
        text.append(f"width {architecture['width']}")
    if extractor == "compact":
        text.append(f"{architecture['features']} features")
    return ", ".join([*text, "with mapping g" if architecture["mapping"] else "without mapping g"])
