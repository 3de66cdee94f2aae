"""Training speed of the networks: one step of each loss mixture on random images, without the data's share. Prints
JSON. What a run reaches with its data is in its log.jsonl (images_per_second).

    python benchmarks/training.py [--extractors compact compact_global vgg16] [--threads 2] [--seconds 10]
"""

import argparse
import json
import os
import time

from hardware import hardware


def measure(extractor: str, precision: str, seconds: float) -> float:
    """Images per second of the joint training, in batches of 32 of each kind."""
    import torch

    from fm_pose_core.contract import object_contract
    from fm_pose_core.learning.adaptation import METHODS
    from fm_pose_core.learning.losses import LossConfig, Objective
    from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig

    model = FeatureMapping(NetworkConfig(extractor=extractor), object_contract())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(model, LossConfig(), METHODS["feature_mapping"].terms)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batch = {k: torch.randint(0, 256, (32, 128, 128, 3), dtype=torch.uint8) for k in ("x_s", "x_r", "x_m")}
    batch |= {k: torch.rand(32, 1, 8, 2) * 128 for k in ("y_s", "y_r")}
    batch |= {k: torch.zeros(32, dtype=torch.int64) for k in ("k_s", "k_r")}

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(batch)["L"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return 96 * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractors", nargs="+", default=["compact", "compact_global", "vgg16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    import torch

    from fm_pose_core.learning.trainer import keep_memory

    keep_memory()
    torch.set_num_threads(arguments.threads)
    rates = {e: {p: round(measure(e, p, arguments.seconds), 1) for p in ("bf16", "fp32")} for e in arguments.extractors}
    machine = hardware(threads=arguments.threads, torch=torch.__version__)
    print(json.dumps({"hardware": machine, "training_images_per_second": rates}, indent=2))


if __name__ == "__main__":
    main()
