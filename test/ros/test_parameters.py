"""Values of parameters that change while a node runs."""

from typing import Any

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from fm_pose_ros.object_config import FIXED, ObjectNodeConfig
from fm_pose_ros.parameters import Parameters


class AsInHumble(Node):
    """A node that does not tell of changes after they were made."""

    @property
    def add_post_set_parameters_callback(self) -> Any:
        raise AttributeError


@pytest.mark.parametrize("kind", [Node, AsInHumble])
def test_a_change_holds_from_the_next_time_on(kind: type[Node]) -> None:
    """And what did not change is not checked again."""
    rclpy.init()
    node = kind("parameters")
    try:
        parameters = Parameters(node, {ObjectNodeConfig: FIXED})
        first = parameters.get(ObjectNodeConfig)
        assert parameters.get(ObjectNodeConfig) is first and first.lost_after == 5
        assert node.set_parameters([Parameter("lost_after", value=7)])[0].successful
        second = parameters.get(ObjectNodeConfig)
        assert second.lost_after == 7 and parameters.get(ObjectNodeConfig) is second
        refused = node.set_parameters([Parameter("lost_after", value=-1)])[0]
        assert not refused.successful and parameters.get(ObjectNodeConfig).lost_after == 7
    finally:
        node.destroy_node()
        rclpy.shutdown()
