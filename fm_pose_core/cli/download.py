"""`fm-pose download`."""

import argparse
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import command, group
from fm_pose_core.errors import expect


def add(verbs: Any, text: str) -> None:
    what = group(verbs, "download", text)
    example = "fm-pose download bop --dataset lmo --parts base,models,test_bop19 --output data"
    p = command(what, "bop", run, "fetch a dataset of the BOP benchmark", example)
    text = "lm, lmo, tless, tudl, icbin, itodd, hb, ycbv, hope, …"
    p.add_argument("--dataset", required=True, metavar="NAME", help=text)
    text = "archives NAME_PART.zip to get, e.g. base,models,test_all,train_pbr (default: %(default)s)"
    p.add_argument("--parts", default="base,models,test_bop19", metavar="A,B", help=text)
    text = "folder in which the folder NAME is made"
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help=text)
    text = (
        "take the archives from this folder, or its file:// address (default: the BOP hub on huggingface.co; "
        "the environment's HF_ENDPOINT names another server of the hub)"
    )
    p.add_argument("--mirror", metavar="DIR", help=text)
    text = "SHA-256 of the archives, as sha256sum writes them"
    p.add_argument("--checksums", type=Path, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> None:
    from fm_pose_core.objects.download import download_bop, read_checksums

    parts = [part.strip() for part in args.parts.split(",") if part.strip()]
    expect(bool(parts), "--parts", "names separated by commas", repr(args.parts))
    checksums = read_checksums(args.checksums) if args.checksums else None
    print(download_bop(args.dataset, args.output, parts, args.mirror, checksums))
