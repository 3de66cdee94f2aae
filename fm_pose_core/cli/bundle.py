"""`fm-pose bundle`."""

import argparse
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import command, group


def add(verbs: Any, text: str) -> None:
    what = group(verbs, "bundle", text)
    p = command(what, "show", run, "check a bundle and print its contents", "fm-pose bundle show models/duck")
    p.add_argument("bundle", type=Path, metavar="DIR", help="bundle")
    example = "fm-pose bundle configuration models/lmo"
    p = command(what, "configuration", print_configuration, "print the configuration of a bundle's training", example)
    p.add_argument("bundle", type=Path, metavar="DIR", help="bundle")


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.tasks import load_bundle

    bundle = load_bundle(args.bundle)
    network, manifest = bundle.manifest.network, bundle.manifest
    outputs = ", ".join(f"{x.name} {' x '.join(map(str, x.shape))}" for x in bundle.contract.outputs)
    size = sum(p.stat().st_size for p in bundle.path.iterdir() if p.is_file()) / 1e6
    lines = [
        *bundle.describe(),
        ("network", f"{network.file}, sha256 {network.sha256[:16]}…, {architecture_text(network.architecture)}"),
        ("outputs", outputs),
        *training_lines(manifest.training),
        ("made with", f"fm_pose {manifest.fm_pose_version}, bundle format {manifest.format}"),
        ("size", f"{size:.1f} MB, all checksums agree"),
    ]
    for heading, text in lines:
        print(f"{heading:12} {text}")


def print_configuration(args: argparse.Namespace) -> None:
    """As `fm-pose train` reads it."""
    import yaml

    from fm_pose_core.errors import expect
    from fm_pose_core.tasks import load_bundle

    configuration = load_bundle(args.bundle).manifest.training.get("configuration")
    expect(bool(configuration), str(args.bundle), "a bundle that tells how it was trained", "one that does not")
    print(yaml.safe_dump(configuration, sort_keys=False, width=100), end="")


def training_lines(training: dict[str, Any]) -> list[tuple[str, str]]:
    """How long it was trained, and how it did in the last validation, as far as the bundle tells."""
    lines = []
    if trained := training.get("trained"):
        lines.append(("trained", f"with {trained['images']} of {trained['of']} images"))
    if validation := training.get("validation"):
        names = {k: k.removeprefix("validation/") for k in validation if k.startswith("validation/")}
        lines.append(("validation", ", ".join(f"{name} {validation[k]:.4g}" for k, name in names.items())))
    return lines


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
