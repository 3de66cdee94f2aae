"""What fm_pose_core logs, such as that it builds an engine, in the log of the node for which it works."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

CORE = logging.getLogger("fm_pose_core")
_one = Lock()


class _ToNode(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
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
    """While it lasts, the core's log from INFO on goes to `logger`, a node's. One node at a time."""
    with _one:
        handler, level, spread = _ToNode(logger), CORE.level, CORE.propagate
        CORE.addHandler(handler)
        CORE.setLevel(logging.INFO)
        CORE.propagate = False
        try:
            yield
        finally:
            CORE.removeHandler(handler)
            CORE.setLevel(level)
            CORE.propagate = spread
