"""`fm-pose bundle`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm_pose_core.cli.options import command, group

if TYPE_CHECKING:
    from fm_pose_core.hands.bundle import HandBundle
    from fm_pose_core.objects.bundle import BundledObject


def add(verbs: Any, text: str) -> None:
    what = group(verbs, "bundle", text)
    p = command(what, "show", run, "check a bundle and print its contents", "fm-pose bundle show models/duck")
    p.add_argument("bundle", type=Path, metavar="DIR", help="bundle")


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.hands.bundle import HandBundle
    from fm_pose_core.objects.bundle import ObjectBundle
    from fm_pose_core.tasks import load_bundle

    bundle = load_bundle(args.bundle)
    if isinstance(bundle, ObjectBundle):
        for known in bundle.objects:
            _show_object(known)
    if isinstance(bundle, HandBundle):
        _show_hand(bundle)
    network = bundle.manifest.network
    outputs = ", ".join(f"{x.name} {' x '.join(map(str, x.shape))}" for x in bundle.contract.outputs)
    size = sum(p.stat().st_size for p in bundle.path.iterdir() if p.is_file()) / 1e6
    print(f"network      {network.file}, sha256 {network.sha256[:16]}…, {architecture_text(network.architecture)}")
    print(f"outputs      {outputs}")
    print(f"made with    fm_pose {bundle.manifest.fm_pose_version}, bundle format {bundle.manifest.format}")
    print(f"size         {size:.1f} MB, all checksums agree")


def _show_object(known: "BundledObject") -> None:
    box = " x ".join(f"{1e3 * x:.1f}" for x in known.dimensions)
    symmetries = f"{len(known.symmetries)} symmetries besides the identity"
    crop = known.crop
    print(f"object       {known.name} (id {known.object_id})")
    print(f"box          {box} mm, diameter {1e3 * known.diameter:.1f} mm, {symmetries}")
    print(f"mesh         {known.mesh_path.name if known.mesh_path else 'none'}")
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
