"""What a benchmark ran on, for its JSON."""

import os
import platform
from pathlib import Path


def hardware(**more: object) -> dict[str, object]:
    """Processor, cores, Python, and what else the benchmark names."""
    return {"cpu": cpu(), "cores": os.cpu_count(), "python": platform.python_version(), **more}


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())
