"""A picture of what the network will see: source images, canvases, and every region in the color of its source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from smalti.errors import UserError
from smalti.files import atomic
from smalti.normalize import IMAGENET, Normalize
from smalti.views.canvas import Canvas
from smalti.views.items import read_items

_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#000075")
MOST_IMAGES = len(_COLORS)  # that are shown
_MOST_PIXELS = 400  # along a side of an image that is shown


def plot_views(
    items: Sequence[Any],
    canvases: Sequence[Canvas],
    path: str | Path,
    *,
    normalize: Normalize = IMAGENET,
    names: Sequence[str] = (),
) -> None:
    """Write a PNG: the first images of a batch, then canvases of every composition that show one of them.

    Args:
        items: of the batch, from the first on, as `Collate` takes them; no more than eight are shown.
        canvases: of the batch, on any device.
        path: of the PNG.
        normalize: of the canvases' pixels, undone for the picture.
        names: of the compositions, for the titles; numbers unless given.

    Raises:
        UserError: the path does not end in .png, or an item is no image.

    Example:
        >>> import tempfile
        >>> from smalti.views import Collate, Crop, Mosaic, plot_views
        >>> images = [np.full((40, 60, 3), 30 * number, dtype=np.uint8) for number in range(8)]
        >>> canvases = Collate([Crop(size=32), Mosaic(tile_size=16, max_shift=4)])(images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_views(images, canvases, f"{folder}/views.png")
    """
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"picture {path}", "a file ending in .png", "give another name")
    images, _ = read_items(items[:MOST_IMAGES], normalize.channels)
    figure = Figure(figsize=(1.5 * len(images), 1.65 * (len(canvases) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(canvases) + 1, len(images), squeeze=False)
    for axis, image, color in zip(axes[0], images, _COLORS, strict=False):
        _show(axis, _small(image), color)
    axes[0][0].set_title("images", fontsize=8, loc="left")
    names = names or [f"view {number}" for number in range(len(canvases))]
    for row, name, canvas in zip(axes[1:], names, canvases, strict=True):
        row[0].set_title(_title(name, canvas), fontsize=8, loc="left")
        _draw_row(row, canvas, normalize)
    with atomic(Path(path)) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_row(row: Sequence[Axes], canvas: Canvas, normalize: Normalize) -> None:
    canvas = canvas.to("cpu")
    source = canvas.regions.source  # (N, K)
    shown = np.flatnonzero((source < len(row)).any(dim=1).numpy())[: len(row)]
    for axis, number in zip(row, shown, strict=False):
        _show(axis, _undo(canvas.pixels[number], normalize))
        for image, box in zip(source[number].tolist(), canvas.regions.boxes[number].tolist(), strict=True):
            x0, y0, x1, y1 = box
            color = _COLORS[image] if image < len(row) else "#999999"
            axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=color, lw=1.6))
    for axis in row[len(shown) :]:
        axis.axis("off")


def _show(axis: Axes, image: np.ndarray, color: str | None = None) -> None:
    axis.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(color is not None)
        if color:
            spine.set(edgecolor=color, linewidth=2.5)


def _small(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel: matplotlib takes a minute over a hundred megapixels."""
    step = max(1, max(image.shape[:2]) // _MOST_PIXELS)
    return image[::step, ::step]


def _undo(pixels: Tensor, normalize: Normalize) -> np.ndarray:
    image = normalize.undo(pixels).permute(1, 2, 0).numpy()
    return image[..., : 3 if image.shape[2] >= 3 else 1].clip(0, 1)


def _title(name: str, canvas: Canvas) -> str:
    count, regions = canvas.regions.source.shape
    size = f"{canvas.pixels.shape[-1]} px"
    return f"{name}: {count} canvases of {size}, {regions} region{'s' * (regions > 1)} each"
