"""`fm-pose evaluate`."""

from typing import Any

from fm_pose_core.cli import evaluate_bop, evaluate_hand
from fm_pose_core.cli.options import group


def add(verbs: Any, text: str) -> None:
    what = group(verbs, "evaluate", text)
    evaluate_bop.add(what)
    evaluate_hand.add(what)
