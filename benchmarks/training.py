"""Training speed of the networks: one step of each loss mixture on random images, without the data's share. Prints
JSON. What a run reaches with its data is in its log.jsonl (images_per_second).

    python benchmarks/training.py [--extractors compact compact_global vgg16] [--threads 2] [--seconds 10]
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path


def measure(extractor: str, precision: str, seconds: float) -> float:
    """Images per second of the joint training, batch 32 + 2 × 32 as in config/train."""
    import torch

    from fm_pose_core.learning.losses import LossConfig, Objective
    from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig

    # Type: ignore[call-overload].
    model = FeatureMapping(NetworkConfig(extractor=extractor)).to(memory_format=torch.channels_last)
    objective = Objective(model, LossConfig(), "feature_mapping")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batch = {k: torch.randint(0, 256, (32, 128, 128, 3), dtype=torch.uint8) for k in ("x_s", "x_r", "x_m")}
    batch |= {k: torch.rand(32, 8, 2) * 128 for k in ("y_s", "y_r")}

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
    info = Path("/proc/cpuinfo")
    names = (
        [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.is_file()
        else []
    )
    hardware = {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    print(json.dumps({"hardware": hardware, "training_images_per_second": rates}, indent=2))


if __name__ == "__main__":
    main()
