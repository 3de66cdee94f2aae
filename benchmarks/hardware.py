"""What a benchmark ran on, for its JSON."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Whose version may matter for a figure.
PACKAGES = ("fm_pose_core", "numpy", "scipy", "opencv-python-headless", "opencv-python", "openvino", "onnxruntime")
PACKAGES += ("tensorrt", "torch", "embreex", "rclpy", "rmw-fastrtps-cpp")


def hardware(**more: object) -> dict[str, object]:
    """Processor, cores, Python, versions, and what else the benchmark names."""
    python = platform.python_version()
    return {"cpu": cpu(), "cores": os.cpu_count(), "python": python, "versions": versions(), **more}


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
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
