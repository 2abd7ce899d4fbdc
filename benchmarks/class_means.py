"""A stand-in for CLIP where none can be had: a supervised encoder, and for a text the mean feature of its class.

`teacher()` finds what `write_teacher` left in the folder that the environment variable CLASS_MEANS names.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from smalti import api
from smalti.models.checkpoints import load_encoder
from smalti.training.fit import Engine
from smalti.training.recipe import Recipe

_VARIABLE = "CLASS_MEANS"
_TEXT = "a photo of a {}"


def write_teacher(folder: Path, data: str, recipe: Recipe) -> None:
    """Train an encoder by a supervised recipe, and keep it with the mean features of its classes."""
    encoder = api.pretrain(data, folder, recipe, engine=Engine(logger="none", score_every=-1, workers=0))
    seen = api.embed(encoder, data, "train", image_size=recipe.image_size)
    features, labels = torch.from_numpy(seen.features), torch.from_numpy(seen.labels)
    means = {_TEXT.format(name): features[labels == number].mean(dim=0) for number, name in enumerate(seen.class_names)}
    torch.save({"texts": means, "center": features.mean(dim=0)}, folder / "means.pt")
    os.environ[_VARIABLE] = str(folder)


def teacher() -> nn.Module:
    """What `--method.teacher` asks a file for."""
    return ClassMeans(Path(os.environ[_VARIABLE]))


class ClassMeans(nn.Module):
    """Features less their mean over all images, so that unlike images do not look alike."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        kept = torch.load(folder / "means.pt", weights_only=True)
        self.encoder, self._texts = load_encoder(folder), kept["texts"]
        self.register_buffer("center", kept["center"])

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, D)."""
        scale = self.encoder.info.pixels
        return self.encoder(pixels * (scale.high - scale.low) + scale.low) - self.center

    def encode_text(self, texts: list[str]) -> Tensor:
        """N texts about known classes -> (N, D)."""
        return torch.stack([self._texts[text] for text in texts]).to(self.center) - self.center
