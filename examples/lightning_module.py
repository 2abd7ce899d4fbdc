"""A method inside a LightningModule: python examples/lightning_module.py FOLDER"""

import sys
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from smalti.methods import BYOL, Method, Progress
from smalti.models import TimmBackbone, update_targets
from smalti.views import Canvas, Collate, Crop, Mosaic


class Pretraining(L.LightningModule):
    """Any method of smalti, or your own."""

    def __init__(self, method: Method, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.method = method
        self.learning_rate = learning_rate

    def progress(self) -> Progress:
        total = int(self.trainer.estimated_stepping_batches)
        return Progress(step=self.global_step, total_steps=total, steps_per_epoch=self.trainer.num_training_batches)

    def training_step(self, views: list[Canvas], batch_idx: int) -> torch.Tensor:
        loss, logs = self.method(views, self.progress())
        self.log_dict({"loss": loss, **logs}, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # once a batch, whatever the accumulation
        update_targets(self.method.momentum_pairs(self.progress()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.method.parameters(), lr=self.learning_rate)


def main(folder: str, **trainer: Any) -> Pretraining:
    """Ten epochs of BYOL with mosaics on a folder of images."""
    collate = Collate([Crop(size=64), Crop(size=64), Mosaic(tile_size=32, max_shift=13)])
    loader = DataLoader(ImageFolder(folder), batch_size=32, shuffle=True, drop_last=True, collate_fn=collate)
    module = Pretraining(BYOL(TimmBackbone(name="resnet18").build()))
    L.Trainer(**{"max_epochs": 10, **trainer}).fit(module, loader)
    return module


if __name__ == "__main__":
    main(sys.argv[1])
