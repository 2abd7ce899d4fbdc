"""Views of any data set: a `collate_fn` for `torch.utils.data.DataLoader`.

Legend: B images of a batch.
"""

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from smalti.errors import UserError
from smalti.normalize import IMAGENET, Normalize
from smalti.views.batch import Batch, canvases, make_batch
from smalti.views.blocks import choose_block
from smalti.views.canvas import Canvas
from smalti.views.items import read_indices, read_items
from smalti.views.plan import Composition
from smalti.views.rng import ViewRNG, mix

_ROWS = 16  # of every image that are hashed: two batches are the same where these rows of all their images are


class Collate:
    """Turns the items of a batch into views: a list with one `Canvas` for each composition.

    An item is an image, (image, label), or a dictionary of Hugging Face's or webdataset's; see
    `smalti.views.items.read_items`. A dictionary's "index" is the image's number in the data set, which a memory bank
    asks for. PIL images are best: they stay 8-bit, whereas `ToTensor` makes floats of them.

    **What is random.** A collate function is told neither the step nor the epoch, so a hash of the batch's pixels takes
    their place: views are a function of (seed, epoch as set, images of the batch in their order) and of nothing else.

    - They are the same for any number of workers, 0 included, and whichever worker makes them, as long as the data set
      itself gives the same images. With `torch.manual_seed` before the loop a shuffled run repeats exactly.
    - A loader that shuffles makes other batches in every epoch, and so other views. One that does not must be told the
      epoch: call `set_epoch` before each, as with a `DistributedSampler`. A batch that comes a second time is warned
      of. Workers see the new epoch, persistent ones too.
    - A resumed loop has the views that it would have had if the sampler gives it the batches that it would have had.
    - They do depend on how the images are split into batches, so on the batch size and the number of processes. Where
      this must not be, `smalti.pretrain` numbers images and steps.

    Canvases hold tiles of images of one block, the largest divisor of B up to 32 that suits all views. A last, smaller
    batch gets a block of its own.

    **Where pixels are normalized.** `collate(items)` does it at once, so batches travel as float32. For a fast GPU let
    8-bit pixels travel, a quarter of the bytes, and leave the rest to it:

        loader = DataLoader(dataset, 256, collate_fn=collate.render, pin_memory=True, ...)
        for batch in loader:
            views = collate.finish(batch.to("cuda"))

    Args:
        views: the compositions.
        seed: of the draws, 0 or more.
        normalize: of pixels in [0, 1], for as many channels as the images are to have; ImageNet's unless given.

    Raises:
        UserError: no views, or no compositions, or a negative seed; later, for items that are no images and for a batch
            whose images cannot be assigned to canvases.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from smalti.views import Collate, Crop, Mosaic
        >>> images = [torch.rand(3, 40, 60) for _ in range(32)]
        >>> views = [Crop(size=32), Crop(size=32), Mosaic(tile_size=16, max_shift=6)]
        >>> loader = DataLoader(images, batch_size=8, shuffle=True, collate_fn=Collate(views))
        >>> first, second, mosaics = next(iter(loader))
        >>> tuple(mosaics.pixels.shape), tuple(mosaics.regions.source.shape)
        ((8, 3, 32, 32), (8, 4))
    """

    def __init__(self, views: Sequence[Composition], *, seed: int = 0, normalize: Normalize = IMAGENET) -> None:
        if isinstance(views, Composition) or not views or not all(isinstance(view, Composition) for view in views):
            raise UserError(f"views {views!r}", "a list of compositions", "use e.g. [Crop(), Crop(), Mosaic()]")
        if seed < 0:
            raise UserError(f"seed {seed}", "0 or more", "use e.g. 0")
        self.views = tuple(views)
        self.seed = seed
        self.normalize = normalize
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # the epoch, and the key of a first batch

    def set_epoch(self, epoch: int) -> None:
        """Draw other views of the same batches from now on; before `for batch in loader`, 0 or more."""
        self._shared[0] = epoch

    def __call__(self, items: Sequence[Any]) -> list[Canvas]:
        """B items of a data set -> one `Canvas` for each composition, on the CPU."""
        return self.finish(self.render(items))

    def render(self, items: Sequence[Any]) -> Batch:
        """B items of a data set -> their views as 8-bit pixels (float32 in [0, 1] for deeper images)."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the threads
        images, labels = read_items(items, self.normalize.channels)
        key = self._key(images)
        rng = ViewRNG(
            seed=self.seed,
            epoch=key,
            step=key,
            view=0,
            images=np.arange(len(images)),
            first=0,
            block=self._block(len(images)),
        )
        return make_batch(images, self.views, rng, labels, read_indices(items))

    def finish(self, batch: Batch) -> list[Canvas]:
        """What `render` made -> canvases, normalized and blended on the device that the batch is on."""
        return canvases(batch, self.views, self.normalize)

    def _key(self, images: Sequence[NDArray[Any]]) -> int:
        """What stands for epoch and step: a hash of the epoch as set and of the images in their order."""
        digest = 0
        for image in images:
            digest = zlib.crc32(np.ascontiguousarray(image[:: max(1, len(image) // _ROWS)]).data, digest)
        epoch, first = self._shared.tolist()
        key = int(mix(epoch, digest) >> np.uint64(1))
        if key == first:
            warnings.warn(
                "got the same batch again, so its views are the same too; expected shuffled batches; "
                "use shuffle=True, or call set_epoch before every epoch",
                stacklevel=4,
            )
        elif not first:
            self._shared[1] = key
        return key

    def _block(self, images: int) -> int:
        block = choose_block(images, self.views)
        try:
            for view in self.views:
                view.check_block(block)
        except UserError as error:
            raise UserError(
                f"a batch of {images} images ({error})",
                "a batch_size that suits all views",
                "change batch_size, and use drop_last=True where only the last batch is too small",
            ) from None
        return block
