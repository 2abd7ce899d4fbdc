"""The device executor: a view is two small matrices.

Crop, antialiased resize, flip and blur are linear and separable, so a tile is `Wy @ image @ Wx^T`, with the matrices of
a whole batch built from the plan: two batched matrix products on whatever device the images are. Colors follow as
matrices too, and one gather lays the tiles out on their canvases.

Legend: T tiles, B images, C channels, N canvases, S side of a tile as it is made, L side of a canvas.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.views.color import after_hue, before_hue
from smalti.views.plan import Bools, Floats, Ints, Plan, Tiles
from smalti.views.render_host import blur_radius


def render(plan: Plan, images: Tensor) -> Tensor:
    """Canvases (N, C, L, L) in [0, 1], float, channels last; pixels that no tile covers are 0.

    Args:
        plan: what to render.
        images: (B, C, H, W) uint8, or float in [0, 1]; smaller images stand at the top left of the padding. float64
            images are rendered in float64, others in float32, on CUDA with half-precision products.
    """
    tiles = _resample(plan, images)
    if tiles.shape[1] == 3:
        tiles = _color(plan.tiles, tiles)
    return _lay_out(plan, tiles[..., :: plan.stride, :: plan.stride])


def _resample(plan: Plan, images: Tensor) -> Tensor:
    """(B, C, H, W) -> (T, C, S, S) in [0, 1]."""
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    # Weights are at most 1 and 8-bit values are exact in half precision: tensor cores lose under a fifth of a level.
    product = torch.float16 if images.is_cuda and dtype == torch.float32 else dtype
    # The weights are drawn up where the images are, in double precision unless they end in half.
    precision = torch.float32 if product == torch.float16 else torch.float64
    exact: dict[str, Any] = {"device": images.device, "dtype": precision}
    tiles, size = plan.tiles, plan.tile_size * plan.stride
    height, width = images.shape[-2:]
    rows = _resize_matrices(tiles.crop[:, 1::2], tiles.bicubic, size, height, **exact)  # (T, S, H)
    columns = _resize_matrices(tiles.crop[:, 0::2], tiles.bicubic, size, width, **exact)  # (T, S, W)
    bicubic = bool(tiles.bicubic.any())  # which overshoots at edges: there values are clamped before they are blurred
    if len(blurred := np.flatnonzero((tiles.sigma > 0) & ~tiles.bicubic)):
        blur, where = _blur_matrices(tiles.sigma[blurred], size, **exact), _like(blurred, images, torch.long)
        rows[where], columns[where] = blur @ rows[where], blur @ columns[where]
    columns = torch.where(_like(tiles.flip, images, torch.bool)[:, None, None], columns.flip(1), columns)
    source = images[_like(tiles.image, images, torch.long)].to(product)  # (T, C, H, W)
    out = source @ columns.to(product).mT[:, None]
    if bicubic and images.dtype == torch.uint8:
        out = out.clamp_(0, 255)  # as PIL and the host do on 8 bits between the two passes
    out = rows.to(product)[:, None] @ out
    out = out.to(dtype) / 255 if images.dtype == torch.uint8 else out.to(dtype)
    if bicubic:
        out = out.clamp_(0, 1)
    if len(blurred := np.flatnonzero((tiles.sigma > 0) & tiles.bicubic)):
        blur = _blur_matrices(tiles.sigma[blurred], size, **exact).to(product)[:, None]
        where = _like(blurred, images, torch.long)
        out[where] = (blur @ out[where].to(product) @ blur.mT).to(dtype)
    return out


def _resize_matrices(
    edges: Ints, bicubic: Bools, size: int, length: int, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(T, S, length) the antialiased resize of pixels [start, stop) to S, as torch's interpolate has it.

    Args:
        edges: (T, 2) start and stop.
        bicubic: (T,) by the cubic kernel, else by the triangle.
        size: S, pixels.
        length: of the image, pixels.
        device: of the matrices.
        dtype: of the matrices.
    """
    begin, end = torch.from_numpy(edges).to(device, dtype)[:, :, None, None].unbind(dim=1)  # each (T, 1, 1)
    scale = (end - begin) / size
    center = begin + scale * (torch.arange(size, device=device) + 0.5)[None, :, None]  # (T, S, 1)
    pixel = (torch.arange(length, device=device) + 0.5)[None, None, :]
    # In place from here on: there are hundreds of megabytes of weights in a large batch.
    weight = (pixel - center).abs_().div_(scale.clamp(min=1))  # the distance
    cubic = torch.from_numpy(np.flatnonzero(bicubic)).to(device)
    cubic_weight = _cubic_kernel(weight[cubic])
    weight.neg_().add_(1).clamp_(min=0)
    weight[cubic] = cubic_weight
    weight *= (pixel > begin) & (pixel < end)
    return weight.div_(weight.sum(dim=-1, keepdim=True))


def _cubic_kernel(distance: Tensor) -> Tensor:
    """Keys' cubic kernel (1981) with a = -1/2, as PIL has it, by how far it is to where its pieces end, at 2 and 1."""
    outer, inner = (2 - distance).clamp_(min=0), (1 - distance).clamp_(min=0)
    return outer**2 * (outer - 1) / 2 + inner**2 * (1 - 2 * inner)


def _blur_matrices(sigma: Floats, size: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(T, S, S) Gaussian blur of sigma > 0 with the border reflected about its last pixel."""
    radius = np.array([blur_radius(s, size) for s in sigma])
    reach = np.arange(-radius.max(), radius.max() + 1)
    kernel = np.exp(-0.5 * (reach / sigma[:, None]) ** 2) * (abs(reach) <= radius[:, None])
    kernel /= kernel.sum(axis=1, keepdims=True)  # (T, taps)
    target = abs(np.arange(size)[:, None] + reach)  # (S, taps)
    target = np.where(target >= size, 2 * (size - 1) - target, target)
    index = torch.from_numpy(target).to(device)[None].expand(len(sigma), -1, -1)
    weight = torch.from_numpy(kernel).to(device, dtype)[:, None].expand_as(index)
    return torch.zeros(len(sigma), size, size, device=device, dtype=dtype).scatter_add_(2, index, weight)


def _color(tiles: Tiles, pixels: Tensor) -> Tensor:
    """(T, 3, S, S) in [0, 1] -> the same, changed."""
    pixels = _affine(pixels, *before_hue(tiles))
    turned = torch.from_numpy(np.flatnonzero(tiles.hue)).to(pixels.device)
    if len(turned):
        turn = _like(tiles.hue, pixels)[turned]
        pixels = pixels.index_copy(0, turned, _turn_hue(pixels[turned], turn))
    pixels = _affine(pixels, *after_hue(tiles))
    if (tiles.solarize <= 1).any():
        pixels = torch.where(pixels >= _like(tiles.solarize, pixels)[:, None, None, None], 1 - pixels, pixels)
    return pixels


def _affine(pixels: Tensor, of_pixel: Floats, of_mean: Floats, added: Floats) -> Tensor:
    mean = pixels.mean(dim=(2, 3))[..., None]  # (T, 3, 1)
    offset = _like(of_mean, pixels) @ mean + _like(added, pixels)[:, None, None]
    changed = torch.baddbmm(offset, _like(of_pixel, pixels), pixels.flatten(2))
    return changed.clamp(0, 1).view_as(pixels)


def _turn_hue(pixels: Tensor, turn: Tensor) -> Tensor:
    """Turn the color wheel of HSV by `turn` (T,), value and saturation kept."""
    value = pixels.amax(dim=1)
    chroma = value - pixels.amin(dim=1)
    red, green, blue = pixels.unbind(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * turn[:, None, None]
    # Each channel is the value, less the chroma times a ramp of the sector's distance to the channel's own color.
    distance = torch.stack([sector + 5, sector + 3, sector + 1], dim=1).remainder(6)
    ramp = torch.minimum(distance, 4 - distance).clamp(0, 1)
    return value[:, None] - chroma[:, None] * ramp


def _lay_out(plan: Plan, tiles: Tensor) -> Tensor:
    """Tiles of the size they have on a canvas -> (N, C, L, L)."""
    if plan.slots.shape[1] == 1 and not plan.offset.any():
        return tiles[torch.from_numpy(plan.slots[:, 0, 0]).to(tiles.device)]
    size, grid = plan.tile_size, plan.slots.shape[1]
    place = np.arange(plan.canvas_size)
    x, y = (place[None] - plan.offset[:, axis, None] for axis in (0, 1))  # (N, L) place in the unmoved grid
    inside = ((y >= 0) & (y < grid * size))[:, :, None] & ((x >= 0) & (x < grid * size))[:, None, :]
    x, y = x.clip(0, grid * size - 1), y.clip(0, grid * size - 1)
    tile = plan.slots[np.arange(len(plan.slots))[:, None, None], (y // size)[:, :, None], (x // size)[:, None, :]]
    inside &= tile >= 0
    index = [torch.from_numpy(i).to(tiles.device) for i in (tile, (y % size)[:, :, None], (x % size)[:, None, :])]
    canvases = tiles.permute(0, 2, 3, 1)[index[0], index[1], index[2]]  # (N, L, L, C)
    canvases = canvases * torch.from_numpy(inside).to(tiles.device)[..., None]
    return canvases.permute(0, 3, 1, 2)


def _like(array: NDArray[Any], pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(pixels.device, dtype or pixels.dtype)
