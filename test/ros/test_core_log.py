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


def test_each_node_hears_its_own_thread(nodes: tuple[Node, Node]) -> None:
    """Two at once, neither waits for the other: the log is as before when both are done."""
    core = logging.getLogger("fm_pose_core")
    before = (core.level, core.propagate, list(core.handlers))
    both, heard = threading.Barrier(2, timeout=10), {"a": [], "b": []}  # type: ignore[var-annotated]

    class Ear:
        def __init__(self, name: str) -> None:
            self.info = heard[name].append

    def configure(name: str) -> None:
        with core_log(Ear(name)):
            both.wait()
            core.info("of %s", name)
            both.wait()

    threads = [threading.Thread(target=configure, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"a": ["of a"], "b": ["of b"]}
    assert (core.level, core.propagate, list(core.handlers)) == before
