"""A linear classifier on frozen features, trained with the papers' optimizers.

Legend: N features, D their dimension, C classes, B a batch.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import UserError

Array = np.ndarray | Tensor

_LEAST_STD = 1e-6  # a dimension that never changes becomes 0, not a division by nothing
_BLOCK = 65536  # features standardized at a time when the statistics are measured


class LinearProbe:
    """Softmax regression by SGD with momentum: linear evaluation as in MosRep (ICLR 2023), on extracted features.

    It sees each image as one center crop, where the papers draw a new crop and flip every epoch; expect somewhat less
    than with augmentation on large sets.

    The defaults are not the paper's: plain features of different encoders differ in size and correlation, so that one
    rate under-fits some and makes others diverge. Standardized, a tenth of its rate is stable up to the widths of
    common encoders. `paper()` has the published settings.

    The problem is convex, so weights start at zero; the seed only orders the batches. Same seed, same device, same
    result.

    Args:
        epochs: passes over the features.
        batch_size: features a step; the whole set where that is smaller.
        learning_rate: for 256 features a step; the rate used is learning_rate * batch / 256.
        momentum: of SGD.
        weight_decay: of SGD, on weight and bias.
        milestones: epochs at which the rate falls to a tenth; a cosine to zero over all steps where there are none.
        normalize: "none" leaves features as they are; "standardize" scales each to length 1, then each dimension to
            mean 0 and deviation 1 over the training set.
        seed: orders the batches.
        device: where to train.

    Attributes:
        weight_: (C, D) float32.
        bias_: (C,) float32.
        classes_: (C,) the distinct labels, sorted.
        mean_, std_: (D,) what standardizes; None with "none".
        losses_: mean cross-entropy of each epoch, in nats.

    Example:
        >>> features = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]], dtype=np.float32)
        >>> LinearProbe(epochs=5).fit(features, np.array([2, 2, 5, 5])).predict(features)
        array([2, 2, 5, 5])
    """

    def __init__(
        self,
        *,
        epochs: int = 90,
        batch_size: int = 1024,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        milestones: tuple[int, ...] = (),
        normalize: Literal["none", "standardize"] = "standardize",
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.milestones = milestones
        self.normalize = normalize
        self.seed = seed
        self.device = device

    @classmethod
    def paper(cls, *, seed: int = 0, device: str | torch.device = "cpu") -> "LinearProbe":
        """MosRep's linear evaluation but for augmentation: 90 epochs, batch 1024, rate 0.1, plain features."""
        return cls(learning_rate=0.1, normalize="none", seed=seed, device=device)

    @classmethod
    def semi_supervised(cls, *, seed: int = 0, device: str | torch.device = "cpu") -> "LinearProbe":
        """MosRep's protocol for 1% and 10% of the labels: 40 epochs, batch 256, rate 0.01, decay 5e-4, steps."""
        return cls(
            epochs=40,
            batch_size=256,
            learning_rate=0.01,
            weight_decay=5e-4,
            milestones=(15, 30),
            normalize="standardize",
            seed=seed,
            device=device,
        )

    def fit(self, features: Array, labels: Array) -> "LinearProbe":
        """Train on (N, D) features of any float type and (N,) integer labels.

        Raises:
            UserError: lengths differ, there is only one class, a feature is not finite, or the loss diverges.
        """
        data = torch.as_tensor(features)
        self._check(data, labels)
        self.classes_, codes = np.unique(np.asarray(labels), return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"{len(self.classes_)} class", "2 or more", "add images of another class")
        self.mean_, self.std_ = self._statistics(data)
        self.weight_, self.bias_ = self._train(data, torch.from_numpy(codes))
        return self

    def decision_function(self, features: Array) -> np.ndarray:
        """(N, D) -> (N, C) float32 logits, columns as in `classes_`."""
        data = torch.as_tensor(features)
        parts = [F.linear(self._ready(block), self.weight_, self.bias_).cpu() for block in data.split(_BLOCK)]
        return torch.cat(parts).numpy()

    def predict(self, features: Array) -> np.ndarray:
        """(N, D) -> (N,) labels."""
        return self.classes_[self.decision_function(features).argmax(axis=1)]

    def score(self, features: Array, labels: Array) -> float:
        """Share of the (N, D) features whose predicted class is the one in labels (N,), 0 to 1."""
        return float((self.predict(features) == np.asarray(labels)).mean())

    def _check(self, data: Tensor, labels: Array) -> None:
        if data.ndim != 2 or len(labels) != len(data):
            raise UserError(
                f"features of shape {tuple(data.shape)} with {len(labels)} labels",
                "(images, dimension) with a label an image",
                "pass both of one set",
            )
        if not all(bool(torch.isfinite(block).all()) for block in data.split(_BLOCK)):
            raise UserError("features with NaN or infinity", "finite numbers", "check the encoder")

    def _statistics(self, data: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Mean and deviation of each dimension of the unit-length features, from one pass in float64."""
        if self.normalize == "none":
            return None, None
        total = torch.zeros(data.shape[1], dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(total)
        for block in data.split(_BLOCK):
            unit = F.normalize(block.to(self.device, torch.float64), dim=1)
            total += unit.sum(dim=0)
            squares += unit.square().sum(dim=0)
        mean = total / len(data)
        std = (squares / len(data) - mean.square()).clamp_min(0).sqrt()
        return mean.float(), std.clamp_min(_LEAST_STD).float()

    def _ready(self, block: Tensor) -> Tensor:
        """Some of the features, (B, D), as the classifier takes them."""
        block = block.to(self.device, torch.float32)
        if self.mean_ is None or self.std_ is None:
            return block
        return (F.normalize(block, dim=1) - self.mean_) / self.std_

    def _train(self, data: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        weight = torch.zeros(len(self.classes_), data.shape[1], device=self.device, requires_grad=True)
        bias = torch.zeros(len(self.classes_), device=self.device, requires_grad=True)
        batch = min(self.batch_size, len(data))
        steps = math.ceil(len(data) / batch)
        optimizer = torch.optim.SGD(
            [weight, bias],
            lr=self.learning_rate * batch / 256,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        schedule = self._schedule(optimizer, steps)
        shuffle = torch.Generator().manual_seed(self.seed)
        self.losses_: list[float] = []
        for epoch in range(self.epochs):
            total = torch.zeros((), device=self.device)
            for rows in torch.randperm(len(data), generator=shuffle).split(batch):
                ready = self._ready(data[rows.to(data.device)])
                loss = F.cross_entropy(F.linear(ready, weight, bias), codes[rows].to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(rows)
            self.losses_.append(float(total) / len(data))
            if not math.isfinite(self.losses_[-1]):
                raise UserError(
                    f"a loss that diverged in epoch {epoch}",
                    f"a learning rate below {self.learning_rate} for these features",
                    'lower it, or use normalize="standardize"',
                )
        return weight.detach(), bias.detach()

    def _schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """The rate of each step, `steps` of them an epoch."""
        if self.milestones:
            starts = [epoch * steps for epoch in self.milestones]
            return torch.optim.lr_scheduler.MultiStepLR(optimizer, starts, gamma=0.1)
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * steps)
