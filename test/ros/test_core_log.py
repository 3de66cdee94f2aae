"""The core's log in the node's, over real DDS."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from fm_pose_ros.core_log import core_log


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    context = rclpy.Context()
    context.init()
    yield rclpy.create_node("worker", context=context), rclpy.create_node("listener", context=context)
    context.shutdown()


def test_what_the_core_logs_is_heard_on_rosout(nodes: tuple[Node, Node]) -> None:
    worker, listener = nodes
    heard: list[tuple[str, int, str]] = []
    listener.create_subscription(Log, "/rosout", lambda m: heard.append((m.name, m.level, m.msg)), 100)
    executor = SingleThreadedExecutor(context=listener.context)
    executor.add_node(listener)
    core = logging.getLogger("fm_pose_core.runtime")
    end = time.monotonic() + 10.0
    while len(heard) < 3 and time.monotonic() < end:  # until the two have found each other
        heard.clear()
        with core_log(worker.get_logger()):
            core.info("builds %s", "an engine")
            core.warning("is slow")
            core.error("is lost")
        core.info("is not told")
        for _ in range(5):
            executor.spin_once(timeout_sec=0.1)
    assert heard == [
        ("worker", Log.INFO, "builds an engine"),
        ("worker", Log.WARN, "is slow"),
        ("worker", Log.ERROR, "is lost"),
    ]


def test_two_nodes_take_turns(nodes: tuple[Node, Node]) -> None:
    """As they do in two threads: the log is as before when both are done."""
    core = logging.getLogger("fm_pose_core")
    before = (core.level, core.propagate, list(core.handlers))
    inside: list[int] = []

    def configure(node: Node) -> None:
        with core_log(node.get_logger()):
            inside.append(len(core.handlers) - len(before[2]))
            time.sleep(0.05)

    threads = [threading.Thread(target=configure, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [1, 1] and (core.level, core.propagate, list(core.handlers)) == before
