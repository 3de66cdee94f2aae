"""`colcon build` with and without --symlink-install: messages and nodes in one package, and the executable that ros2
run finds."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "fm_pose_core",
    "fm_pose_ros",
    "launch",
    "config",
    "models",
    "msg",
    "test",
    "CMakeLists.txt",
    "package.xml",
    "setup.py",
    "pyproject.toml",
)


@pytest.mark.parametrize("options", [[], ["--symlink-install"]], ids=["copy", "symlink"])
def test_colcon_build(options: list[str], tmp_path: Path) -> None:
    if shutil.which("colcon") is None or shutil.which("cmake") is None:
        pytest.skip("colcon or cmake is not installed")
    source = tmp_path / "src" / "fm_pose_ros"
    source.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    built = subprocess.run(
        ["colcon", "build", "--packages-select", "fm_pose_ros", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    prefix = tmp_path / "install" / "fm_pose_ros"
    for name in ("object_pose_node", "hand_pose_node", "pose_nodes", "fm-pose"):
        assert os.access(prefix / "lib" / "fm_pose_ros" / name, os.X_OK)
    assert (prefix / "share" / "fm_pose_ros" / "launch" / "object_pose.launch.py").is_file()
    assert (prefix / "share" / "fm_pose_ros" / "models" / "tugboat" / "manifest.json").is_file()
    code = (
        "import fm_pose_ros, fm_pose_ros.object_pose_node; from fm_pose_ros.msg import ProjectedBoxArray; "
        "print(fm_pose_ros.__file__)"
    )
    script = f". {tmp_path}/install/setup.sh && python -c '{code}'"
    used = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert str(prefix) in used.stdout
    if options:
        return
    tested = subprocess.run(
        ["colcon", "test", "--packages-select", "fm_pose_ros", "--ctest-args", "-R", "conversions"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    results = subprocess.run(["colcon", "test-result", "--all"], cwd=tmp_path, capture_output=True, text=True)
    assert results.returncode == 0 and "Summary: " in results.stdout, results.stdout
    count = int(results.stdout.split("Summary: ")[1].split()[0])
    assert count > 10, results.stdout
