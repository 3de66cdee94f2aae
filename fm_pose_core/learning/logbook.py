"""What a run tells: log.jsonl, TensorBoard's files, pictures of what the network sees, and lines on the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
from torch import Tensor

from fm_pose_core.files import write_atomically
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.learning.sheet import draw_batch

LOG = "log.jsonl"


class Logbook:
    """Of a run's folder. images: how many had been seen where the run goes on; what was logged beyond is dropped, since
    it happens anew."""

    def __init__(self, run: Path, images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        if (run / LOG).is_file():
            lines = (run / LOG).read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a kill may leave half a line
            kept = "".join(line for line in whole if json.loads(line)["images"] <= images)
            write_atomically(run / LOG, kept.encode())
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=images)

    def add(self, where: Mapping[str, object], images: int, values: Mapping[str, float]) -> None:
        """Named numbers after so many images; where: phase, step and seconds."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)
        with (self.run / LOG).open("a") as file:
            file.write(json.dumps({**where, "images": images, **values}) + "\n")

    def draw(self, name: str, batch: Mapping[str, Tensor], experiment: Experiment) -> None:
        """samples_NAME.png: a batch with its labels."""
        arrays = {k: v.cpu().numpy() for k, v in batch.items()}
        picture = draw_batch(arrays, experiment.contract(), experiment.edges)
        png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
        write_atomically(self.run / f"samples_{name}.png", png)

    def close(self) -> None:
        """Flush TensorBoard's files."""
        self._writer.close()
