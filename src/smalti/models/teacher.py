"""Teachers that embed images and texts: CLIP from open_clip, or one of the user's own.

Legend: N images or texts, D width of the teacher's embeddings.
"""

import importlib.util
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.user_files import call_in_file

_WEIGHTS = "use e.g. open_clip:ViT-B-32/openai, or open_clip:ViT-B-32/FILE; see open_clip.list_pretrained()"


class Teacher(Protocol):
    """The interface of a teacher. One that is an `nn.Module` is frozen and moved to the images' device.

    It may have `mean` and `std`, three numbers each: then its pixels are standardized by them, else they are in [0, 1].
    """

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D), of any length."""
        ...

    def encode_text(self, texts: list[str]) -> Tensor:
        """N texts -> (N, D), of any length."""
        ...


def load_teacher(name: str) -> Teacher:
    """A teacher by name.

    Args:
        name: "open_clip:ARCHITECTURE/WEIGHTS", as open_clip names them, e.g. "open_clip:ViT-B-32/openai", or with a
            file of weights; or a Python file with a function `teacher()` that returns one.

    Raises:
        UserError: no such file or function, unknown weights, or open_clip is not installed.
    """
    if not name:
        raise UserError("no teacher", "one to learn from", "give --method.teacher open_clip:ViT-B-32/openai, or a file")
    kind, colon, rest = name.partition(":")
    teacher: Any = _open_clip(rest) if colon and kind == "open_clip" else call_in_file(name, "teacher", "teacher")
    if isinstance(teacher, nn.Module):
        teacher.eval().requires_grad_(False)
    return teacher


class OpenClip(nn.Module):
    """A model of open_clip as a teacher; images are resized to the size that it was trained on."""

    def __init__(self, architecture: str, weights: str) -> None:
        super().__init__()
        import open_clip

        self.model = open_clip.create_model(architecture, pretrained=weights)
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.mean = tuple(getattr(self.model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
        self.std = tuple(getattr(self.model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD)

    def encode_image(self, pixels: Tensor) -> Tensor:
        size = self.model.visual.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
        return self.model.encode_image(pixels)

    def encode_text(self, texts: list[str]) -> Tensor:
        device = next(self.parameters()).device
        return self.model.encode_text(self.tokenizer(texts).to(device))


def _open_clip(name: str) -> Teacher:
    if importlib.util.find_spec("open_clip") is None:
        raise UserError(f"teacher open_clip:{name} without open_clip", "the package", "pip install 'smalti[clip]'")
    architecture, _, weights = name.partition("/")
    if not weights:  # open_clip would draw them at random
        raise UserError(f"teacher open_clip:{name} without weights", "ARCHITECTURE/WEIGHTS", _WEIGHTS)
    try:
        return OpenClip(architecture, weights)
    except Exception as error:  # downloads and unknown names fail in many ways; all mean the same here
        raise UserError(
            f"teacher open_clip:{name} ({type(error).__name__}: {error})",
            "an architecture and weights that open_clip has, or a file of weights",
            _WEIGHTS,
        ) from error
