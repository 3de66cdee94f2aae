"""The tables of parameters in the docs, written from the dataclasses that declare them. Needs no ROS.

python -m fm_pose_ros.parameter_table
"""

import dataclasses
import re
from pathlib import Path

from fm_pose_core.errors import expect
from fm_pose_core.files import write_atomically
from fm_pose_ros import hand_config, object_config
from fm_pose_ros.node_config import Configs

ROOT = Path(__file__).resolve().parents[1]
PAGES: dict[str, tuple[Path, Configs]] = {
    "object_pose_node": (ROOT / "docs" / "ros.md", object_config.PARAMETERS),
    "hand_pose_node": (ROOT / "docs" / "hand.md", hand_config.PARAMETERS),
}
HEAD = ("| name | default | range | live | |", "|---|---|---|---|---|")


def table(configs: Configs) -> str:
    """Markdown: a row for each parameter. "live": whether it can be changed while the node runs."""
    rows = [_row(f, f.name not in fixed) for cls, fixed in configs.items() for f in dataclasses.fields(cls)]
    return "\n".join([*HEAD, *rows])


def with_table(page: str, node: str, configs: Configs) -> str:
    """The text of a page with the table between the node's two marker comments written anew. Raises InputError if the
    page has no such markers."""
    begin, end = f"<!-- parameters of {node} -->\n", "\n<!-- end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    expect(bool(pattern.search(page)), "page", f"the comments {begin.strip()} and {end.strip()}", "none")
    return pattern.sub(lambda _: begin + table(configs) + end, page, count=1)


def _row(f: "dataclasses.Field[object]", live: bool) -> str:
    low, high, choices = (f.metadata[key] for key in ("low", "high", "choices"))
    span = ", ".join(choices) or ("" if low is None else f"{low:g} to {high:g}")
    default = str(f.default).lower() if isinstance(f.default, bool) else str(f.default) or '""'
    return f"| `{f.name}` | {default} | {span} | {'yes' if live else 'no'} | {f.metadata['description']} |"


def main() -> None:
    """Rewrite the tables."""
    for node, (page, configs) in PAGES.items():
        write_atomically(page, with_table(page.read_text(encoding="utf-8"), node, configs).encode())


if __name__ == "__main__":
    main()
