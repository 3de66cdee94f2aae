"""What the node publishes is what the command line computes: the same frames and windows through both, pose by pose."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
pytest.importorskip("fm_pose_ros.msg", reason="the messages of fm_pose_ros are not built: make environment")
pytest.importorskip("rosbags", reason="rosbags is not installed")

from fm_pose_core.cli import main
from fm_pose_core.objects.bop import read_results

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FM_POSE_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.parametrize(
    ("bundle", "sequence", "frames"),
    [
        ("tugboat", ROOT / "demo" / "sequence", "0-90"),
        ("duck", DATA / "lmo", "72-156"),
        ("holepuncher", DATA / "lmo", "72-156"),
    ],
    ids=["tugboat", "duck", "holepuncher"],
)
def test_the_node_publishes_what_the_command_line_computes(
    bundle: str, sequence: Path, frames: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sequence.is_dir():
        pytest.skip(f"{sequence} is not there (set FM_POSE_DATA)")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    common = ["--bundle", str(ROOT / "models" / bundle), "--frames", frames]
    played = subprocess.run(
        [
            sys.executable,
            "-m",
            "fm_pose_ros.demo",
            "object",
            *common,
            "--sequence",
            str(sequence),
            "--window-source",
            "gt",
            "--output",
            str(tmp_path / "ros"),
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert played.returncode == 0, played.stderr
    evaluate = [
        "evaluate",
        "bop",
        *common,
        "--root",
        str(sequence),
        "--split",
        "test",
        "--window",
        "gt",
        "--all-instances",
    ]
    assert main([*evaluate, "--csv", str(tmp_path / "cli.csv")]) == 0
    ros = {(r.scene_id, r.im_id): r for r in read_results(tmp_path / "ros" / "results.csv")}
    cli = {(r.scene_id, r.im_id): r for r in read_results(tmp_path / "cli.csv")}
    assert len(cli) >= 10 and ros.keys() == cli.keys()
    for key, result in cli.items():
        # Both files hold nine digits.
        assert np.allclose(ros[key].T_camera_object, result.T_camera_object, atol=1e-7), key
        assert ros[key].score == pytest.approx(result.score, abs=1e-5)
