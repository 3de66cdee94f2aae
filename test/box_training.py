"""A training of the rendered box (rendered_bop.py), as a user starts it."""

import os
import sys
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parent.parent


def write_experiment(path: Path, dataset: Path, **schedule: object) -> Path:
    values = {
        "data": {"dataset": str(dataset), "validation_frames": "6-7"},
        "objects": [{"id": 1}],
        "crop": {"size": 64},
        "synthetic": {"viewpoints": {"distance": [0.3, 0.5]}},
        "network": {"width": 8, "features": 32},
        "schedule": {
            "pretrain_images": 96,
            "images": 480,
            "batch_synthetic": 4,
            "batch_pairs": 4,
            "workers": 0,
            "checkpoint_seconds": 0.0,
            **schedule,
        },
    }
    path.write_text(yaml.safe_dump(values))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fm_pose_core.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
        "LP_NUM_THREADS": "0",
    }


def checkpoint(run: Path) -> dict:  # type: ignore[type-arg]
    return torch.load(run / "checkpoint.pt", weights_only=True)  # type: ignore[no-any-return]
