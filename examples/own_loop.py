"""MoCo-v2 with mosaics in a loop of your own, on a folder of images: python examples/own_loop.py FOLDER WEIGHTS"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

from smalti.methods import MoCo, MoCoConfig, Progress
from smalti.models import update_targets
from smalti.views import Collate, Crop, Mosaic


def train(folder: str, epochs: int = 1, batch_size: int = 32, size: int = 64) -> MoCo:
    """MoCo after so many epochs on views of `size` pixels."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    collate = Collate([Crop(size=size), Crop(size=size), Mosaic(tile_size=size // 2, max_shift=size // 5)])
    loader = DataLoader(ImageFolder(folder), batch_size, shuffle=True, drop_last=True, collate_fn=collate)
    method = MoCo(resnet18(), MoCoConfig(queue=1024)).to(device)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)

    for epoch in range(epochs):
        for step, views in enumerate(loader, start=epoch * len(loader)):
            progress = Progress(step=step, total_steps=epochs * len(loader), steps_per_epoch=len(loader))
            loss, logs = method([canvas.to(device) for canvas in views], progress)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_targets(method.momentum_pairs(progress))
            print(f"step {step}: loss {loss:.3f}, embeddings spread {logs['z_std']:.2f}")
    return method


if __name__ == "__main__":
    # The weights are torchvision's, under its own names.
    torch.save(train(sys.argv[1]).encoder().model.state_dict(), sys.argv[2])
