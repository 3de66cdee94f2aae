"""Throughput of the training data: finished samples per second against bare renders, on this machine. Prints JSON.

python benchmarks/samples.py [--mesh FILE --unit 0.001] [--workers 2] [--seconds 8]
"""

import argparse
import contextlib
import json
import os
import platform
import time
from multiprocessing import get_context
from pathlib import Path
from queue import Empty

os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software rasteriser: one thread for each process


def measure(arguments: argparse.Namespace, worker: int, results: object) -> None:
    """Run each case for some seconds in this process."""
    import cv2
    import numpy as np
    from threadpoolctl import threadpool_limits

    from fm_pose_core.crop import Crop
    from fm_pose_core.data.appearance import AppearanceConfig
    from fm_pose_core.data.backgrounds import Backgrounds
    from fm_pose_core.data.renderer import load_mesh
    from fm_pose_core.data.samples import SyntheticConfig, SyntheticSamples
    from fm_pose_core.data.viewpoints import random_viewpoint
    from fm_pose_core.geometry import box_corners

    cv2.setNumThreads(1)
    rng = np.random.default_rng(worker)
    if arguments.mesh:
        mesh = load_mesh(arguments.mesh, arguments.unit)
    else:
        from fm_pose_core.simulation.tugboat import demo_object

        mesh = demo_object()
    mesh = mesh.simplified(arguments.faces)
    crop = Crop.around(mesh.diameter, 0.65)
    corners = box_corners(*mesh.box)
    lit = AppearanceConfig(light=0.7, repaint=0.3, occluders=0.35, colour=0.6, blur=1.0, noise=8.0)
    cases = {
        "paper": SyntheticConfig(),
        "paper_16_uses": SyntheticConfig(uses_per_view=16),
        "all_options_16_uses": SyntheticConfig(uses_per_view=16, appearance=lit),
    }
    rates = {}
    with threadpool_limits(1):
        for name, config in cases.items():
            samples = SyntheticSamples(mesh, corners, crop, config, Backgrounds([], crop.size, rng), rng)
            rates[name] = _rate(samples.draw, arguments.seconds)
            if name == "paper":
                rates["bare_renders"] = _rate(
                    lambda s=samples, c=config: s.renderer.render(random_viewpoint(rng, c.viewpoints, s.center)), arguments.seconds
                )  # type: ignore[misc]
            samples.close()
    results.put(rates)  # type: ignore[attr-defined]


def _rate(draw: object, seconds: float) -> float:
    for _ in range(40):
        draw()  # type: ignore[operator]
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(20):
            draw()  # type: ignore[operator]
        count += 20
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", type=Path, help="mesh file (default: the demo's object)")
    parser.add_argument("--unit", type=float, default=1e-3, help="the mesh's unit in metres")
    parser.add_argument("--faces", type=int, default=5000, help="simplify the mesh to about so many triangles")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each case")
    arguments = parser.parse_args()
    context = get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=measure, args=(arguments, i, queue)) for i in range(arguments.workers)]
    for w in workers:
        w.start()
    rates = []
    while len(rates) < len(workers):
        if any(w.exitcode not in (None, 0) for w in workers):
            raise SystemExit("a process failed; see above")
        with contextlib.suppress(Empty):
            rates.append(queue.get(timeout=1.0))
    total = {name: round(sum(r[name] for r in rates), 1) for name in rates[0]}
    ratio = {name: round(total[name] / total["bare_renders"], 2) for name in total}
    hardware = {"cpu": _cpu(), "processes": arguments.workers, "python": platform.python_version()}
    print(json.dumps({"hardware": hardware, "samples_per_second": total, "ratio_to_bare_renders": ratio}, indent=2))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    )
    return f"{names[0]}, {os.cpu_count()} cores" if names else platform.processor()


if __name__ == "__main__":
    main()
