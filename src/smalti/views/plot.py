"""A picture of what the network will see: source images, canvases, and every region in the color of its source."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from smalti.files import atomic
from smalti.views.canvas import Canvas
from smalti.views.finish import Normalize
from smalti.views.loader import ViewDataset, canvases
from smalti.views.plan import Composition

_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#000075")
_MOST_PIXELS = 400  # along a side of an image that is shown


def plot_views(
    dataset: ViewDataset, views: Sequence[Composition], normalize: Normalize, path: Path, step: int = 0
) -> None:
    """Write a PNG: the first images of a step's batch, then canvases of every composition that show one of them.

    Args:
        dataset: of host or device batches.
        views: its compositions.
        normalization: of its pixels, undone for the picture.
        path: of the PNG.
        step: which batch.
    """
    batch = dataset[step]
    columns = min(len(_COLORS), dataset.share)
    figure = Figure(figsize=(1.5 * columns, 1.65 * (len(views) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(views) + 1, columns, squeeze=False)
    for column, axis in enumerate(axes[0]):
        _show(axis, _small(dataset.image(step, column)), _COLORS[column])
    axes[0][0].set_title("images", fontsize=8, loc="left")
    for row, view, canvas in zip(axes[1:], views, canvases(batch, views, normalize), strict=True):
        row[0].set_title(_title(view, canvas), fontsize=8, loc="left")
        _draw_row(row, canvas, normalize)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_row(row: Sequence[Axes], canvas: Canvas, normalize: Normalize) -> None:
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


def _title(view: Composition, canvas: Canvas) -> str:
    count, regions = canvas.regions.source.shape
    size = f"{canvas.pixels.shape[-1]} px"
    return f"{type(view).__name__}: {count} canvases of {size}, {regions} region{'s' * (regions > 1)} each"
