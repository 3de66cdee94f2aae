"""Parameter file and RViz configuration say what the code says."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from camera_rig import Peer  # noqa: F401 (skips this file where there is no ROS)

from fm_pose_core.config import from_dict
from fm_pose_ros import hand_config, object_config

ROOT = Path(__file__).parents[2]
NODES = pytest.mark.parametrize(
    ("name", "configs"), [("object_pose", object_config.PARAMETERS), ("hand_pose", hand_config.PARAMETERS)]
)


@NODES
def test_the_parameter_file_holds_the_defaults(name, configs):
    values = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())["/**"]["ros__parameters"]
    known = {f.name: f.default for cls in configs for f in dataclasses.fields(cls)}
    assert {key: known.get(key) for key in values} == values
    for cls in configs:
        names = {f.name for f in dataclasses.fields(cls)}
        from_dict(cls, {k: v for k, v in values.items() if k in names})


@NODES
def test_rviz_shows_topics_that_the_node_has(name, configs):
    displays = yaml.safe_load((ROOT / "config" / f"{name}.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    assert topics == {f"/{name}_node/markers", f"/{name}_node/overlay"}
