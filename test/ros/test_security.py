"""The SROS 2 policies allow what the nodes do, and nothing else. (The middleware of these tests was built without
security, so it cannot enforce them.)"""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from test_hand_pose_node import bundle, hand_rig  # noqa: F401  (fixtures)
from test_object_pose_node import HERE

POLICIES = Path(__file__).resolve().parents[2] / "config" / "sros2"
# What a node has only sometimes.
AT_TIMES = {"/clock", "/tf", "/parameter_events", "image_raw/compressed", "depth/image_rect_raw/compressedDepth"}


def allowed(file: str, kind: str, right: str) -> list[str]:
    (profile,) = ET.parse(POLICIES / file).iter("profile")
    return [x.text or "" for group in profile.findall(kind) if group.get(right) == "ALLOW" for x in group]


@pytest.mark.parametrize("name", ["object_pose", "hand_pose"])
def test_a_policy_allows_what_its_node_does(name: str, request: pytest.FixtureRequest) -> None:
    rig: Callable[..., Any] = request.getfixturevalue("rig" if name == "object_pose" else "hand_rig")
    r = rig(**({**HERE, "window_source": "detections"} if name == "object_pose" else {"window_source": "detections"}))
    node, file = r.node, f"{name}.xml"
    (profile,) = ET.parse(POLICIES / file).iter("profile")
    assert profile.get("node") == node.get_name() == f"{name}_node"
    own, space = (node.get_name(), node.get_namespace())
    graph = {
        ("topics", "publish"): node.get_publisher_names_and_types_by_node(own, space),
        ("topics", "subscribe"): node.get_subscriber_names_and_types_by_node(own, space),
        ("services", "reply"): node.get_service_names_and_types_by_node(own, space),
        ("services", "request"): node.get_client_names_and_types_by_node(own, space),
    }
    for (kind, right), found in graph.items():
        names = {x: node.resolve_topic_name(x.replace("*", "X")).replace("X", "*") for x in allowed(file, kind, right)}
        there = {full for full, _ in found}
        for full in there:
            assert any(fnmatch(full, pattern) for pattern in names.values()), f"{right} {full} is not in {file}"
        for short, pattern in names.items():
            needed = short in AT_TIMES or "*" in short or any(fnmatch(full, pattern) for full in there)
            assert needed, f"{file} has {right} {short}, which the node does not do"
