"""The networks with the terms of a method: what is trained."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fm_pose_core.learning.losses.term import Answers, LossConfig, Seen, Term
from fm_pose_core.learning.networks import FeatureMapping

Batch = Mapping[str, Tensor]


class Objective(nn.Module):
    """The networks and the terms of a method. forward(batch) gives the named losses and their weighted sum L. Wrapped
    as a whole for distributed training."""

    def __init__(self, model: FeatureMapping, config: LossConfig, terms: Sequence[type[Term]]) -> None:
        super().__init__()
        self.model, self.config = model, config
        chosen = [t for t in dict.fromkeys(terms) if t.weight(config) > 0]
        self.terms = nn.ModuleDict({t.name: t(model, config) for t in chosen})
        self.weights = {t.name: t.weight(config) for t in chosen}
        self.active = tuple(self.terms)
        self.progress = 0.0
        self.adapting = True  # whether synthetic images have an extractor of their own, where the model has one

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """batch: images x_s, x_m, x_r (N, S, S, C) and their labels with the same suffixes, in the units of the model's
        contract (learning/heads.py). The M images x_m belong to the first M of x_r and have their labels. What the
        batch lacks has no term."""
        seen = self.look(batch)
        values = {name: self.terms[name](seen) for name in self.active}
        losses: dict[str, Tensor] = {name: value for name, value in values.items() if value is not None}
        losses["L"] = sum((self.weights[k] * v for k, v in losses.items()), torch.zeros(()))  # Eq. 1
        return losses

    def look(self, batch: Batch) -> Seen:
        """f, g and h of all images of the batch."""
        g = self.model.g
        features = self.extract({k: batch[k] for k in ("x_s", "x_m", "x_r") if k in batch})
        mapped: Tensor | None = g(features["x_r"]) if "x_r" in features else None
        labels = {kind: _labels(batch, kind, len(x)) for kind, x in features.items()}
        synthetic = [k for k in ("x_s", "x_m") if k in features]
        answers = None
        if synthetic:
            joined = {n: torch.cat([labels[k][n] for k in synthetic]) for n in labels[synthetic[0]]}
            answers = self.answer(torch.cat([features[k] for k in synthetic]), joined)
        real = self.answer(mapped, labels["x_r"]) if mapped is not None else None
        return Seen(features, mapped, answers, real, self.progress)

    def extract(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """f's features of each kind of images; f_s's of synthetic ones, where the method has two extractors."""
        f, f_s = self.model.f, self.model.f_s
        if f_s is None or not self.adapting:
            return _through(f, images)
        synthetic = {k: x for k, x in images.items() if k != "x_r"}
        return {**_through(f_s, synthetic), **_through(f, {k: x for k, x in images.items() if k == "x_r"})}

    def answer(self, features: Tensor, labels: dict[str, Tensor]) -> Answers:
        """h, and its loss against the labels."""
        prediction = self.model.h(features)
        return Answers(features, labels, self.model.h.loss(prediction, labels, self.config.huber), prediction)


def _through(f: nn.Module, images: dict[str, Tensor]) -> dict[str, Tensor]:
    if not images:
        return {}
    x = FeatureMapping.normalise(torch.cat(list(images.values()))).contiguous(memory_format=torch.channels_last)
    return dict(zip(images, f(x).split([len(v) for v in images.values()]), strict=True))


def _labels(batch: Batch, kind: str, count: int) -> dict[str, Tensor]:
    """The labels of one kind of images by their names without suffix; x_m shares those of x_r but for its own."""
    own = {k[:-2]: v for k, v in batch.items() if k.endswith(kind[1:]) and not k.startswith("x_")}
    if kind == "x_m":
        own = {k[:-2]: v[:count] for k, v in batch.items() if k.endswith("_r") and not k.startswith("x_")} | own
    return own
