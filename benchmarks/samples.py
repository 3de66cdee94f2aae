"""Throughput of the training data: finished samples per second against bare renders, on this machine. Prints JSON.

python benchmarks/samples.py [--of hands] [--mesh FILE --unit 0.001] [--workers 2] [--seconds 8]
"""

import argparse
import contextlib
import json
import os
import time
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from hardware import hardware

if TYPE_CHECKING:
    import numpy as np

os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software rasteriser: in the thread that asks, none of its own


def measure(arguments: argparse.Namespace, worker: int, results: Any) -> None:
    """Run each case for some seconds in this process."""
    import cv2
    import numpy as np
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    with threadpool_limits(1):
        rates = of_hands if arguments.of == "hands" else of_object
        results.put(rates(arguments, np.random.default_rng(worker)))


def of_object(arguments: argparse.Namespace, rng: "np.random.Generator") -> dict[str, float]:
    """Rates of T^S as the paper's, and with the options of config/train."""
    from fm_pose_core.geometry import box_corners
    from fm_pose_core.objects.crop import Crop
    from fm_pose_core.objects.samples import ObjectAssets, SyntheticConfig, SyntheticSamples
    from fm_pose_core.objects.surroundings import Surroundings
    from fm_pose_core.objects.viewpoints import random_viewpoint
    from fm_pose_core.rendering.appearance import AppearanceConfig
    from fm_pose_core.rendering.backgrounds import Backgrounds
    from fm_pose_core.rendering.mesh import load_mesh
    from fm_pose_core.simulation.tugboat import demo_object

    mesh = load_mesh(arguments.mesh, arguments.unit) if arguments.mesh else demo_object()
    mesh = mesh.simplified(arguments.faces)
    crop = Crop.around(mesh.diameter, 0.65)
    assets = ObjectAssets(mesh, box_corners(*mesh.box), crop)
    lit = AppearanceConfig(light=0.7, repaint=0.3, occluders=0.35, colour=0.6, blur=1.0, noise=8.0)
    cases = {
        "paper": SyntheticConfig(),
        "paper_16_uses": SyntheticConfig(uses_per_view=16),
        "all_options_16_uses": SyntheticConfig(uses_per_view=16, appearance=lit),
    }
    rates = {}
    for name, config in cases.items():
        samples = SyntheticSamples(assets, config, Surroundings(Backgrounds([], crop.size, rng)), rng)
        rates[name] = _rate(samples.draw, arguments.seconds)
        if name == "paper":
            rates["bare_renders"] = _rate(
                lambda s=samples, c=config: s.renderer.render(random_viewpoint(rng, c.viewpoints, s.center)),
                arguments.seconds,
            )
        samples.close()
    return rates


def of_hands(arguments: argparse.Namespace, rng: "np.random.Generator") -> dict[str, float]:
    """Rates of T^S of hands: six hands in turn, poses of the model's own prior."""
    import numpy as np

    from fm_pose_core.hands.crop import HandCrop
    from fm_pose_core.hands.experiment import HandConfig, random_hand
    from fm_pose_core.hands.model.skeleton import joint_sets
    from fm_pose_core.hands.samples import HandSamples, HandSyntheticConfig

    landmarks, config = joint_sets()["nyu14"], HandSyntheticConfig()
    hands = [random_hand(landmarks, HandConfig(), rng) for _ in range(6)]
    samples = HandSamples(hands, np.zeros((0, hands[0][0].skeleton.size)), HandCrop(), config, rng)
    renderer, prior = samples.renderers[0], samples.priors[0]
    rates = {
        "hands": _rate(samples.draw, arguments.seconds),
        "bare_renders": _rate(lambda: renderer.render(prior.draw(rng)), arguments.seconds),
    }
    samples.close()
    return rates


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
    parser.add_argument(
        "--of", choices=("object", "hands"), default="object", help="what is rendered (default: %(default)s)"
    )
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
    rates: list[dict[str, float]] = []
    while len(rates) < len(workers):
        if any(w.exitcode not in (None, 0) for w in workers):
            raise SystemExit("a process failed; see above")
        with contextlib.suppress(Empty):
            rates.append(queue.get(timeout=1.0))
    total = {name: round(sum(r[name] for r in rates), 1) for name in rates[0]}
    ratio = {name: round(total[name] / total["bare_renders"], 2) for name in total}
    machine = hardware(processes=arguments.workers)
    print(json.dumps({"hardware": machine, "samples_per_second": total, "ratio_to_bare_renders": ratio}, indent=2))


if __name__ == "__main__":
    main()
