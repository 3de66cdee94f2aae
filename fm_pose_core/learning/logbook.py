"""What a run tells: log.jsonl, TensorBoard's files, pictures of what the network sees, and lines on the terminal."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from torch import Tensor

from fm_pose_core.files import write_atomically
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.learning.sheet import draw_batch

LOG = "log.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl. A kill or a full disk may leave half a one: what is no line of a log is left out."""
    path, lines = run / LOG, []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("images"), int):
                lines.append(line)
    return lines


class Logbook:
    """Of a run's folder. images: how many had been seen where the run goes on; what was logged beyond is dropped, since
    it happens anew."""

    def __init__(self, run: Path, images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        if (run / LOG).is_file():
            kept = [x for x in read_log(run) if x["images"] <= images]
            write_atomically(run / LOG, "".join(json.dumps(x) + "\n" for x in kept).encode())
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
