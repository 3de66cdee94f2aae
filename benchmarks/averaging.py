"""What the mean of the weights is worth: validation of a run's network with it, and of its latest weights, as JSON.

python benchmarks/averaging.py RUN …
"""

import argparse
import json
from pathlib import Path

from fm_pose_core.errors import expect
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.export import read_checkpoint
from fm_pose_core.learning.networks import Fused
from fm_pose_core.tasks import load_experiment


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = p.parse_args()
    print(json.dumps({str(run): compare(run) for run in args.runs}, indent=1))


def compare(run: Path) -> dict:
    """Figures of both, by their names in log.jsonl."""
    experiment = load_experiment(run / "config.yaml")
    state = read_checkpoint(run, experiment)
    expect(checkpoints.AVERAGE in state, str(run), "a run with schedule.average above 0", "one without")
    validator, model = experiment.read_data().validator(), experiment.untrained().model()
    expect(validator is not None, str(run), "validation images", "none")
    assert validator is not None
    found = {"images": state["trained"]["images"]}
    latest = {k: v for k, v in state.items() if k != checkpoints.AVERAGE}
    for name, weights in (("mean", checkpoints.weights(state)), ("latest", checkpoints.weights(latest))):
        model.load_state_dict(weights)
        found[name] = {k: round(v, 3) for k, v in validator.run(Fused(model).eval()).items() if k.count("/") == 1}
    return found


if __name__ == "__main__":
    main()
