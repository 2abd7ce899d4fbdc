"""What mosaics cost beside the same crops on canvases of their own: laying tiles out, and pooling regions."""

from collections.abc import Callable

import torch
from torch import Tensor

from smalti.models.regions import pool_regions
from smalti.training.recipe import Recipe
from smalti.views.canvas import Regions
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic


def mosaic_of(recipe: Recipe) -> Mosaic:
    """The recipe's mosaic, its third composition."""
    mosaic = recipe.views[2]
    assert isinstance(mosaic, Mosaic)
    return mosaic


def apart(mosaic: Mosaic) -> Crop:
    """The tiles of the mosaic, each a canvas of its own."""
    return Crop(
        size=mosaic.tile_size,
        scale=mosaic.scale,
        ratio=mosaic.ratio,
        count=mosaic.tiles,
        augmentation=mosaic.augmentation,
    )


def pooling(maps: Tensor, regions: Regions, canvas_size: int, size: int) -> Callable[[int], object]:
    """A pass of region pooling forward and backward, on maps (N, C, h, w)."""
    maps = maps.detach().requires_grad_()

    def work(_round: int) -> object:
        features = pool_regions(maps, regions, canvas_size, size)
        return torch.autograd.grad(features.map.sum() + features.pooled.sum(), maps)

    return work
