"""The object node for a long time: images published by this process at a fixed rate, its memory read from the system.
Prints JSON: the memory after the warm-up and at the end, how much it grew, and which share of the images got an answer.
Ends with 1 if the node ended, or grew by more than --most.

    dev/with_ros .venv/bin/python benchmarks/soak.py [--minutes 30] [--hz 30] [--bundle models/duck] [--most 5]
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

from hardware import hardware
from node import ROOT, Camera, noise, start_node, wait_for_answers

WARM_UP = 0.2  # of the time


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--bundle", default=str(ROOT / "models/duck"))
    parser.add_argument("--most", type=float, default=5.0, help="megabytes by which it may grow (default: %(default)s)")
    arguments = parser.parse_args()
    import rclpy

    process = start_node("object_pose_node", arguments.bundle, 1)
    rclpy.init()
    camera = Camera(noise((640, 480)), True)
    memory, sent, answered = [], 0, 0
    try:
        wait_for_answers(process, camera)
        end = time.perf_counter() + 60.0 * arguments.minutes
        while time.perf_counter() < end and process.poll() is None:
            camera.forget()
            camera.run(arguments.hz, min(10.0, 60.0 * arguments.minutes / 20))
            memory.append(megabytes(process.pid))
            sent, answered = sent + len(camera.sent), answered + len(camera.answered)
        alive = process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        camera.node.destroy_node()
        rclpy.shutdown()
    begin = memory[int(WARM_UP * len(memory))]
    told = {"minutes": arguments.minutes, "hz": arguments.hz, "images": sent, "answered": round(answered / sent, 4)}
    told |= {"mb_after_warm_up": round(begin, 1), "mb_at_the_end": round(memory[-1], 1)}
    told |= {"mb_grown": round(memory[-1] - begin, 2), "exit": process.returncode}
    print(json.dumps({"hardware": hardware(), **told}, indent=2))
    raise SystemExit(not alive or memory[-1] - begin > arguments.most)


if __name__ == "__main__":
    main()
