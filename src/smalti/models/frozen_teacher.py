"""A trained, frozen backbone, whose map ranks the cells of another one's (E-DIY, arXiv:2106.00537).

Legend: N canvases, C channels of an image, C' of the map.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.models.checkpoints import load_encoder


class FrozenTeacher(nn.Module):
    """A frozen backbone, always in evaluation mode, for pixels normalized for another one.

    Args:
        path: of the encoder or checkpoint.
        mean: of the pixels that it is given, one value a channel.
        std: their standard deviation, one value a channel.
        stride: of the backbone whose cells it ranks.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, path: str, mean: Sequence[float], std: Sequence[float], stride: int) -> None:
        super().__init__()
        encoder = load_encoder(path)
        self.backbone = encoder.backbone.requires_grad_(False)
        theirs = encoder.info.pixels
        if self.backbone.stride != stride or len(theirs.mean) != len(mean):
            raise UserError(
                f"teacher {path} of stride {self.backbone.stride} for {len(theirs.mean)} channels",
                f"stride {stride} and {len(mean)} channels, as the network in training has",
                "give another --method.teacher or --backbone.name",
            )
        our_mean, our_std, their_mean, their_std = (
            torch.tensor(each, dtype=torch.float64).view(1, -1, 1, 1) for each in (mean, std, theirs.mean, theirs.std)
        )
        self.register_buffer("scale", (our_std / their_std).float())
        self.register_buffer("shift", ((our_mean - their_mean) / their_std).float())
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) -> the last map, (N, C', h, w)."""
        return self.backbone(torch.addcmul(self.shift, pixels, self.scale)).map

    def train(self, mode: bool = True) -> Self:
        return super().train(False)
