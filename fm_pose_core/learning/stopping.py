"""An orderly end of a training that is asked to stop, by Ctrl-C or by a job scheduler's SIGTERM.

It is asked for from the very beginning: a KeyboardInterrupt that comes while libraries are imported may be swallowed by
one of them, and the training would go on.
"""

import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Within `with`, the first signal sets `made`; the second one ends the program at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.made = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True
