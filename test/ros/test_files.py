"""Documentation, parameter file and RViz configuration say what the code says."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from camera_rig import Peer  # noqa: F401 (skips this file where there is no ROS)

from fm_pose_core.config import EngineConfig, EstimatorConfig, from_dict
from fm_pose_core.hands.locate import SearchConfig
from fm_pose_ros.hand_config import FIXED as HAND_FIXED
from fm_pose_ros.hand_config import HandNodeConfig
from fm_pose_ros.node_base import FIXED as BASE_FIXED
from fm_pose_ros.node_base import NodeConfig
from fm_pose_ros.object_config import FIXED, ObjectNodeConfig
from fm_pose_ros.object_pose_node import ESTIMATOR_FIXED

ROOT = Path(__file__).parents[2]
OBJECT = {ObjectNodeConfig: FIXED, EstimatorConfig: ESTIMATOR_FIXED, NodeConfig: BASE_FIXED}
HAND = {HandNodeConfig: HAND_FIXED, SearchConfig: (), EngineConfig: ESTIMATOR_FIXED, NodeConfig: BASE_FIXED}
NODES = pytest.mark.parametrize(
    ("name", "page", "configs"), [("object_pose", "ros.md", OBJECT), ("hand_pose", "hand.md", HAND)]
)


def parameter_table(configs: dict[type, tuple[str, ...]]) -> list[str]:
    """The rows of the table in the node's page."""
    rows = []
    for cls, fixed in configs.items():
        for f in dataclasses.fields(cls):
            m = f.metadata
            span = ", ".join(m["choices"]) or ("" if m["low"] is None else f"{m['low']:g} to {m['high']:g}")
            default = (
                '""' if f.default == "" else str(f.default).lower() if isinstance(f.default, bool) else f"{f.default}"
            )
            rows.append(
                f"| `{f.name}` | {default} | {span} | {'no' if f.name in fixed else 'yes'} | {m['description']} |"
            )
    return rows


@NODES
def test_the_documentation_lists_every_parameter_as_it_is(name, page, configs):
    text = (ROOT / "docs" / page).read_text()
    assert [row for row in parameter_table(configs) if row not in text] == []


@NODES
def test_the_parameter_file_holds_the_defaults(name, page, configs):
    values = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())["/**"]["ros__parameters"]
    known = {f.name: f.default for cls in configs for f in dataclasses.fields(cls)}
    assert {key: known.get(key) for key in values} == values
    for cls in configs:
        names = {f.name for f in dataclasses.fields(cls)}
        from_dict(cls, {k: v for k, v in values.items() if k in names})


@NODES
def test_rviz_shows_topics_that_the_node_has(name, page, configs):
    displays = yaml.safe_load((ROOT / "config" / f"{name}.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    assert topics == {f"/{name}_node/markers", f"/{name}_node/overlay"}
