"""Features of every image of a source, extracted once; what the probes read and what `embed` writes.

Each image becomes a square of S pixels as in the papers: the shorter side is resized to S / crop_fraction (antialiased,
bilinear, S * 256 / 224 by default), then the center is cut out. An image that is S x S already is taken as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from smalti.errors import BadImageError, UserError
from smalti.evaluation.frozen import assert_frozen
from smalti.files import DAMAGED_ZIP, atomic
from smalti.images.source import ImageSource
from smalti.images.statistics import PixelStatistics
from smalti.models.encoder import Encoder


@dataclass(frozen=True)
class FeatureSet:
    """The features of N images, in the order of their source.

    Attributes:
        features: (N, D) float32.
        labels: (N,) int64, indices into `class_names`; None when unlabeled.
        names: N names that the user can find the images by.
        class_names: empty when unlabeled.
        skipped: (name, reason) of each image that could not be used; none of the above has an entry for it.

    Example:
        >>> train = FeatureSet(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a.png", "b.png"), ("cat", "dog"))
        >>> len(train), train.class_names[train.labels[1]]
        (2, 'dog')
    """

    features: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.features)

    def save(self, path: str | Path) -> None:
        """Write an `.npz` with arrays `features`, `labels` (absent when unlabeled), `names`, `class_names`, `skipped`.

        Raises:
            UserError: the path does not end in ".npz".
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise UserError(f"{path}", "a file that ends in .npz", f"write to {path.with_suffix('.npz')}")
        arrays = {
            "features": self.features,
            "names": np.asarray(self.names, dtype=np.str_),
            "class_names": np.asarray(self.class_names, dtype=np.str_),
            "skipped": np.asarray(self.skipped, dtype=np.str_).reshape(-1, 2),
        }
        if self.labels is not None:
            arrays["labels"] = self.labels
        with atomic(path) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "FeatureSet":
        """Read what `save` wrote.

        Raises:
            UserError: it is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    features=arrays["features"],
                    labels=arrays.get("labels"),
                    names=tuple(arrays["names"].tolist()),
                    class_names=tuple(arrays["class_names"].tolist()),
                    skipped=tuple((name, reason) for name, reason in arrays["skipped"].tolist()),
                )
        except DAMAGED_ZIP as error:
            raise UserError(
                f"{path}, which cannot be read as features ({error})",
                "an .npz file that smalti wrote",
                "extract the features again",
            ) from None


def matching_labels(train: FeatureSet, test: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    """The labels of two sets, (M,) and (N,), numbered as in `train`: classes are the same where their names are.

    Raises:
        UserError: a set is unlabeled, or `test` has images of classes that `train` lacks.
    """
    if train.labels is None or test.labels is None:
        raise UserError("images without labels", "one sub-folder a class", "label both sets")
    if train.class_names == test.class_names:
        return train.labels, test.labels
    number = {name: index for index, name in enumerate(train.class_names)}
    present = [test.class_names[label] for label in np.unique(test.labels)]
    unknown = [name for name in present if name not in number]
    if unknown:
        alike = {name.casefold(): name for name in train.class_names}
        close = [f"{name} (there it is {alike[name.casefold()]})" for name in unknown if name.casefold() in alike]
        raise UserError(
            f"test images of classes unknown to the training set: {', '.join((close or unknown)[:5])}",
            f"its classes, {', '.join(train.class_names[:5])}{', ...' if len(train.class_names) > 5 else ''}",
            "rename or remove those folders",
        )
    return train.labels, np.array([number.get(name, -1) for name in test.class_names])[test.labels]


def extract_features(
    encoder: Encoder,
    source: ImageSource,
    *,
    batch_size: int = 256,
    image_size: int | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    autocast: bool = False,
    progress: bool = False,
) -> FeatureSet:
    """Run every image of a source through a frozen encoder.

    Images that cannot be read are left out and listed. All are brought to the range of the encoder first, whatever
    their depth; those of an 8-bit encoder are resized in 8 bits and rounded, as image libraries do, others in float32.
    The encoder is put in evaluation mode meanwhile and its weights are checked to be the same afterwards.

    Args:
        encoder: what to evaluate.
        source: the images.
        batch_size: images a forward pass.
        image_size: side S in pixels of what the encoder sees; the side that it was trained at unless given.
        device: where to run, and where the encoder stays; where it is unless given.
        workers: processes that read and resize; 0 for this one.
        autocast: on CUDA, compute in float16 where that is safe; the features are float32 all the same.
        progress: draw a bar on stderr.

    Raises:
        UserError: the source has another number of channels than the encoder, or no image of it can be read.
        RuntimeError: the encoder's weights changed.

    Example:
        >>> from smalti import load_encoder
        >>> from smalti.images.array import ArraySource
        >>> source = ArraySource("black", np.zeros((3, 32, 32, 3), dtype=np.uint8))
        >>> extract_features(load_encoder("random:resnet18"), source, image_size=32).features.shape
        (3, 512)
    """
    _check_channels(encoder, source)
    encoder = encoder if device is None else encoder.to(device)
    place = encoder.scale.device
    if autocast and place.type != "cuda":
        raise UserError(f"autocast on {place.type}", "a CUDA device", "leave autocast out")
    size = image_size or encoder.info.image_size
    prepared = _PreparedImages(source, encoder.info.pixels, size, round(size / encoder.info.crop_fraction))
    loader = DataLoader(prepared, batch_size, num_workers=workers, collate_fn=_collate, pin_memory=place.type == "cuda")
    batches = track(loader, "features", console=Console(stderr=True), disable=not progress)
    features = np.empty((len(source), encoder.dim), dtype=np.float32)
    kept: list[int] = []
    bad: list[tuple[int, str]] = []
    with assert_frozen(encoder), _evaluating(encoder), torch.autocast(place.type, torch.float16, enabled=autocast):
        for batch in batches:
            bad += batch.bad
            if batch.indices:
                output = encoder(batch.pixels.to(place, non_blocking=True))
                features[len(kept) : len(kept) + len(output)] = output.float().cpu().numpy()
                kept += batch.indices
    return _gathered(source, features, kept, bad)


def prepare(image: np.ndarray, size: int, resize: int) -> Tensor:
    """One image to the square that the encoder sees.

    Args:
        image: (H, W, C), uint8, uint16 or float32.
        size: side of the result in pixels.
        resize: what the shorter side is resized to before the center is cut out; `size` or more.

    Returns:
        (C, size, size) in the image's value range, uint8 for uint8 and float32 for all else.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)  # (C, H, W)
    if pixels.dtype != torch.uint8:
        pixels = pixels.float()
    height, width = pixels.shape[1:]
    if (height, width) == (size, size):
        return pixels
    shorter = min(height, width)
    # Truncated, and the crop below rounded, as torchvision does: figures of the papers rest on these pixels.
    target = resize * height // shorter, resize * width // shorter
    if target != (height, width):
        pixels = F.interpolate(pixels[None], target, mode="bilinear", antialias=True)[0]
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return pixels[:, top : top + size, left : left + size]


class _Batch(NamedTuple):
    pixels: Tensor  # (len(indices), C, S, S)
    indices: list[int]
    bad: list[tuple[int, str]]


class _PreparedImages(Dataset):
    """The images of a source as squares, or why they are not."""

    def __init__(self, source: ImageSource, pixels: PixelStatistics, size: int, resize: int) -> None:
        self.source = source
        self.pixels = pixels
        self.size = size
        self.resize = resize

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, prepare(self.pixels.alike(self.source.read(index)), self.size, self.resize)
        except BadImageError as error:
            return index, str(error)


def _collate(items: list[tuple[int, Tensor | str]]) -> _Batch:
    good = [(index, item) for index, item in items if isinstance(item, Tensor)]
    bad = [(index, item) for index, item in items if isinstance(item, str)]
    pixels = torch.stack([item for _, item in good]) if good else torch.empty(0)
    return _Batch(pixels, [index for index, _ in good], bad)


def _check_channels(encoder: Encoder, source: ImageSource) -> None:
    expected = encoder.info.backbone.in_channels
    if source.channels != expected:
        raise UserError(
            f"images of {source.channels} channels in {source.name}",
            f"{expected}, as the encoder was trained on",
            "read the images with that many channels, or take another encoder",
        )


@contextmanager
def _evaluating(encoder: Encoder) -> Iterator[None]:
    """Evaluation mode without gradients, and every module's own mode afterwards."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _gathered(source: ImageSource, features: np.ndarray, kept: list[int], bad: list[tuple[int, str]]) -> FeatureSet:
    if not kept:
        reason = f" (the first: {bad[0][1]})" if bad else ""
        raise UserError(f"{source.name} without a readable image{reason}", "at least one", "check the folder")
    return FeatureSet(
        features=features[: len(kept)],
        labels=None if source.labels is None else source.labels[kept],
        names=tuple(source.image_name(index) for index in kept),
        class_names=tuple(source.class_names),
        skipped=tuple((source.image_name(index), reason) for index, reason in bad),
    )
