"""What README.md shows is run here as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("document", "check"),
    [
        ("README.md", "assert pose.accepted, pose.reason\nassert 0.5 < pose.T_camera_object[2, 3] < 1.3"),
        ("docs/hand.md", "assert hand.accepted, hand.reason\nassert hand.joints.shape == (14, 3)"),
    ],
)
def test_the_python_example_runs(document: str, check: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 8
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_file_that_the_documents_link_to_exists() -> None:
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"
