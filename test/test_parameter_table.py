"""The docs list every parameter as the code declares it. Runs without ROS."""

import subprocess
import sys

import pytest

from fm_pose_core.errors import InputError
from fm_pose_ros.parameter_table import PAGES, ROOT, with_table


@pytest.mark.parametrize("node", PAGES)
def test_the_table_in_the_docs_is_up_to_date(node: str) -> None:
    path, configs = PAGES[node]
    page = path.read_text(encoding="utf-8")
    assert page == with_table(page, node, configs), (
        f"the parameters of {node} have changed; run: python -m fm_pose_ros.parameter_table"
    )


def test_a_stale_table_is_written_anew_and_the_rest_is_kept() -> None:
    _, configs = PAGES["hand_pose_node"]
    page = "before\n<!-- parameters of hand_pose_node -->\n| old |\n<!-- end -->\nafter\n"
    fresh = with_table(page, "hand_pose_node", configs)
    assert fresh.startswith("before\n<!--") and fresh.endswith("<!-- end -->\nafter\n")
    assert "| old |" not in fresh
    assert (
        "| `nearest` | 0.15 | 0.01 to 20 | yes | Nearest depth at which a hand is looked for and accepted, metres. |"
        in fresh
    )
    assert "| `threads` | 0 | 0 to 256 | no |" in fresh and '| `tf_prefix` | "" |  | yes |' in fresh
    assert with_table(fresh, "hand_pose_node", configs) == fresh


def test_a_page_without_the_markers_is_an_error() -> None:
    with pytest.raises(InputError, match="page: expected the comments"):
        with_table("# Nothing here\n", "hand_pose_node", {})


def test_the_module_needs_no_ros() -> None:
    code = "import sys; sys.modules['rclpy'] = None; import fm_pose_ros.parameter_table"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
