"""A data set of your own, here of 16-bit arrays with five channels: python examples/own_data.py"""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from smalti import Normalize
from smalti.methods import BYOL, BYOLConfig, Progress
from smalti.models import ProjectorConfig, TimmBackbone, update_targets
from smalti.views import Collate, Crop, Montage

NORMALIZE = Normalize(mean=(0.5,) * 5, std=(0.25,) * 5)  # of pixels in [0, 1]


class Scans(Dataset):
    """(H, W, 5) scans with a label; PIL images, tensors and dictionaries of Hugging Face's data sets do as well."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        random = np.random.default_rng(index)
        return random.integers(0, 2**16, (48, 64, 5), dtype=np.uint16), index % 3


def main(steps: int = 3) -> list[float]:
    """The losses of a few steps."""
    collate = Collate([Crop(size=32), Crop(size=32), Montage(size=32, level=1)], normalize=NORMALIZE)
    loader = DataLoader(Scans(16 * steps), batch_size=16, shuffle=True, collate_fn=collate, num_workers=2)
    backbone = TimmBackbone(name="resnet18", stem="stride8", in_channels=5).build()
    method = BYOL(backbone, BYOLConfig(projector=ProjectorConfig(hidden=256, norm=True), predictor_hidden=256))
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    losses = []
    for step, views in enumerate(loader):
        progress = Progress(step=step, total_steps=steps, steps_per_epoch=steps)
        loss, _ = method(views, progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_targets(method.momentum_pairs(progress))
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(main())
