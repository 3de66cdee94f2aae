"""Two minutes of images at 30 Hz: the memory of the node stays (benchmarks/soak.py takes 30 by default)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_memory_stays(toy_bundle: Path) -> None:
    command = [sys.executable, "benchmarks/soak.py", "--minutes", "2", "--bundle", str(toy_bundle)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["images"] > 2000 and told["answered"] > 0.5 and told["exit"] == 0
