"""What a benchmark ran on, for its JSON."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Whose version may matter for a figure.
PACKAGES = (
    *("fm-pose", "numpy", "scipy", "opencv-python-headless", "opencv-python", "openvino", "onnxruntime"),
    *("tensorrt", "tensorrt-rtx", "torch", "embreex", "rclpy", "ros-rmw-fastrtps-cpp"),
)


def hardware(**more: object) -> dict[str, object]:
    """Processor, cores, Python, versions, and what else the benchmark names."""
    python = platform.python_version()
    return {"cpu": cpu(), "cores": os.cpu_count(), "python": python, "versions": versions(), **more}


def versions() -> dict[str, str]:
    """Of the packages that are installed, and the commit of this checkout."""
    here = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(here, capture_output=True, text=True, check=False).stdout.strip()
    found = {"commit": commit} if commit else {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())
