"""What a node tells about itself on /diagnostics. diagnostic_updater isn't on PyPI; its message is plain enough."""

from collections import Counter, deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time


class Statistics:
    """Counts and times of the frames since activation. All times in seconds; `now` is a steady clock."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.last_arrival = -np.inf
        self.received = self.processed = self.found = self.dropped = self.bad = self.unmatched = 0
        self.busy = 0.0  # seconds spent on frames
        self.faults: Counter[str] = Counter()
        self._done: deque[float] = deque(maxlen=300)
        self._latency: deque[float] = deque(maxlen=300)
        self._age: deque[float] = deque(maxlen=300)
        self._sequence = 0

    def arrived(self, now: float, sequence: int | None) -> None:
        """A frame arrived. sequence: the publisher's message number, where the middleware tells it; a gap in it is
        the number of frames that newer ones overtook, or that the network lost."""
        self.received += 1
        self.last_arrival = now
        if sequence:
            if 0 < self._sequence < sequence:
                self.dropped += sequence - self._sequence - 1
            self._sequence = sequence  # smaller than the last one: the publisher was started again

    def done(self, now: float, latency: float, age: float, found: bool) -> None:
        """A frame was processed in `latency`; its stamp was `age` old when the results went out."""
        self.processed += 1
        self.found += found
        self.busy += latency
        self._done.append(now)
        self._latency.append(latency)
        self._age.append(age)

    def failed(self, fault: str) -> None:
        """A frame gave no result because of a fault."""
        self.bad += 1
        self.faults[fault] += 1

    def rate(self, now: float, window: float = 5.0) -> float:
        """Processed frames per second over the last `window` seconds."""
        recent = [t for t in self._done if now - t <= window]
        span = min(window, now - self.started)
        return len(recent) / span if span > 0 else 0.0

    def values(self, now: float) -> dict[str, str]:
        """What goes into the status message."""
        values = {
            "rate (Hz)": f"{self.rate(now):.1f}",
            "frames received": str(self.received),
            "frames processed": str(self.processed),
            "frames with an object": str(self.found),
            "frames dropped (overtaken by a newer one or lost)": str(self.dropped),
            "frames without a matching detection": str(self.unmatched),
            "frames bad": str(self.bad),
        }
        for name, times in (("latency", self._latency), ("age of the stamp at output", self._age)):
            if times:
                p50, p95, p99 = 1000 * np.percentile(times, [50, 95, 99])
                values[f"{name} p50, p95, p99 (ms)"] = f"{p50:.1f}, {p95:.1f}, {p99:.1f}"
        for fault, count in self.faults.items():
            values[f"fault: {fault}"] = str(count)
        return values


def diagnostic_array(
    stamp: Time, name: str, hardware_id: str, level: bytes, message: str, values: dict[str, str]
) -> DiagnosticArray:
    """A DiagnosticArray with one status."""
    pairs = [KeyValue(key=k, value=v) for k, v in values.items()]
    status = DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id, values=pairs)
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp.to_msg()
    return array
