"""Documentation, parameter file and RViz configuration say what the code says."""

import dataclasses
from pathlib import Path

import yaml
from camera_rig import Peer  # noqa: F401 (skips this file where there is no ROS)

from fm_pose_core.config import EstimatorConfig, from_dict
from fm_pose_ros.node_base import FIXED as BASE_FIXED
from fm_pose_ros.node_base import NodeConfig
from fm_pose_ros.object_config import FIXED, ObjectNodeConfig
from fm_pose_ros.object_pose_node import ESTIMATOR_FIXED

ROOT = Path(__file__).parents[2]
CONFIGS = {ObjectNodeConfig: FIXED, EstimatorConfig: ESTIMATOR_FIXED, NodeConfig: BASE_FIXED}


def parameter_table() -> list[str]:
    """The rows of the table in docs/ros.md."""
    rows = []
    for cls, fixed in CONFIGS.items():
        for f in dataclasses.fields(cls):
            m = f.metadata
            span = ", ".join(m["choices"]) or ("" if m["low"] is None else f"{m['low']:g} to {m['high']:g}")
            default = '""' if f.default == "" else str(f.default).lower() if isinstance(f.default, bool) else f"{f.default}"
            rows.append(f"| `{f.name}` | {default} | {span} | {'no' if f.name in fixed else 'yes'} | {m['description']} |")
    return rows


def test_the_documentation_lists_every_parameter_as_it_is():
    text = (ROOT / "docs" / "ros.md").read_text()
    assert [row for row in parameter_table() if row not in text] == []


def test_the_parameter_file_holds_the_defaults():
    values = yaml.safe_load((ROOT / "config" / "object_pose.yaml").read_text())["/**"]["ros__parameters"]
    known = {f.name: f.default for cls in CONFIGS for f in dataclasses.fields(cls)}
    assert {name: known.get(name) for name in values} == values
    for cls in CONFIGS:
        names = {f.name for f in dataclasses.fields(cls)}
        from_dict(cls, {k: v for k, v in values.items() if k in names})


def test_rviz_shows_topics_that_the_node_has():
    displays = yaml.safe_load((ROOT / "config" / "object_pose.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    assert topics == {"/object_pose_node/markers", "/object_pose_node/overlay"}
