"""What fm_pose_core logs, such as that it builds an engine, in the log of the node for which it works."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

CORE = logging.getLogger("fm_pose_core")
_change = Lock()
_nodes: list[logging.Handler] = []  # for which the core works just now
_before: list[Any] = []  # level and propagation without them


class _ToNode(logging.Handler):
    """What the thread logs in which it was made."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger, self._thread = logger, get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        text = record.getMessage()
        # rclpy wants one line of code for each severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


@contextmanager
def core_log(logger: Any) -> Iterator[None]:
    """While it lasts, what the core logs in this thread goes to `logger`, a node's, from INFO on."""
    handler = _ToNode(logger)
    with _change:
        if not _nodes:
            _before[:] = [CORE.level, CORE.propagate]
        _nodes.append(handler)
        CORE.addHandler(handler)
        CORE.setLevel(logging.INFO)
        CORE.propagate = False
    try:
        yield
    finally:
        with _change:
            _nodes.remove(handler)
            CORE.removeHandler(handler)
            if not _nodes:
                level, CORE.propagate = _before
                CORE.setLevel(level)
