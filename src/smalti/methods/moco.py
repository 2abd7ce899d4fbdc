"""MoCo-v2 (arXiv:1911.05722, arXiv:2003.04297) on any composition; with mosaics, MosRep (ICLR 2023).

Legend: B images on this process, W processes, N canvases, K regions on each, D embedding, Q keys in the queue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction, require_positive
from smalti.distributed import gather, rank, share, world_size
from smalti.errors import UserError
from smalti.losses.info_nce import info_nce, info_nce_among
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone
from smalti.models.batch_norm import split_batch_norm, synchronize_batch_norm
from smalti.models.heads import ProjectorConfig
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import Network
from smalti.models.queue import Queue
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition
from smalti.views.rng import field_key, permutation


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(MethodConfig):
    """MoCo-v2's settings; the defaults are those for ImageNet-1K.

    Attributes:
        projector: from features to embeddings.
        ema_momentum: m, weight that the key network keeps of itself at every step.
        queue: Q, keys in the queue.
        temperature: tau.
        symmetric: each standard view is the query once and the key once, and the two losses are added.
        batch_negatives: for further canvases the other keys of the batch are negatives too (Z^k of Eq. 9); for Un-Mix
            the queue alone.
        shuffle_bn_group: images whose batch statistics are shared, keys being shuffled between groups; 0 for the
            statistics of the whole batch over all processes. The published runs had 32 images on each device.
        region_size: cells along a region read from the map.

    Example:
        >>> from smalti.methods import MoCoConfig
        >>> MoCoConfig(queue=4096, symmetric=True).temperature
        0.2
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    ema_momentum: float = 0.999
    queue: int = 65536
    temperature: float = 0.2
    symmetric: bool = False
    batch_negatives: bool = True
    shuffle_bn_group: int = 32
    region_size: int = 7
    scored: ClassVar[str] = "query"

    def __post_init__(self) -> None:
        require_fraction(self, "ema_momentum")
        require_positive(self, "temperature")
        require_count(self, "queue", "region_size")
        if self.shuffle_bn_group < 0 or self.shuffle_bn_group == 1:
            raise UserError(f"shuffle_bn_group {self.shuffle_bn_group}", "0, or 2 or more images", "use e.g. 32")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that MoCo cannot learn from."""
        check_standard_views(views, 2, "a query and a key view")

    def build(self, backbone: nn.Module, data: DataInfo) -> "MoCo":
        return MoCo(backbone, self)


class MoCo(Method):
    """A query network trained to find, among Q others, the key of the same image made by its slow copy.

    Args:
        backbone: of the query network; any network that `Backbone` can read.
        config: its settings.

    Example:
        >>> from smalti.methods import MoCo, Progress
        >>> from smalti.models import TimmBackbone
        >>> from smalti.views import Collate, Crop, Mosaic
        >>> compose = Collate([Crop(size=32), Crop(size=32), Mosaic(tile_size=16, max_shift=6)])
        >>> views = compose(list(torch.rand(8, 3, 40, 40)))
        >>> method = MoCo(TimmBackbone(name="resnet18", stem="stride8").build())
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: MoCoConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MoCoConfig()
        self.query_network = Network(backbone, config.projector, config.region_size)
        self.key_network = momentum_copy(self.query_network)
        self.queue = Queue(config.queue, config.projector.dim)
        networks = (self.query_network, self.key_network)
        if config.shuffle_bn_group:
            self._bn_groups = [split_batch_norm(network) for network in networks]
        else:
            for network in networks:
                synchronize_batch_norm(network)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """MosRep Eq. 9; `views` are the query view, the key view, and any further canvases."""
        first, second, *composed = views
        if self.config.shuffle_bn_group:
            for groups in self._bn_groups:
                groups.count = math.ceil(len(second.pixels) / self.config.shuffle_bn_group)
        z_composed = [self._embed(canvas) for canvas in composed]
        key = self._encode_keys(second, progress)  # (W*B, D), z^k of all processes
        loss, logs = self._contrast(first, composed, z_composed, key)
        if self.config.symmetric:
            other_key = self._encode_keys(first, progress)
            loss = loss + self._contrast(second, composed, z_composed, other_key)[0]
            key = torch.cat([key, other_key])
        self.queue.enqueue(key)
        return Step(loss, logs)

    @property
    def memory(self) -> int:
        return self.config.queue

    def remember(self, views: Sequence[Canvas], progress: Progress) -> None:
        self.queue.enqueue(self._encode_keys(views[1], progress))

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.query_network, self.key_network, self.config.ema_momentum)]

    def encoder(self) -> Backbone:
        return self.query_network.backbone

    def _embed(self, canvas: Canvas) -> Tensor:
        """(N, K, D) of length 1."""
        return F.normalize(self.query_network(canvas), dim=-1)

    def _contrast(
        self, query: Canvas, composed: Sequence[Canvas], z_composed: Sequence[Tensor], key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 9 for one query view: its own term, and one for every further composition."""
        negatives, tau = self.queue.keys.clone(), self.config.temperature
        z = self._embed(query)  # (N, K, D)
        first = rank() * (len(key) // world_size())  # number of this process's first image
        positive = key[first + query.regions.source.flatten()]  # (N*K, D)
        loss = weighted_mean(info_nce(z.flatten(0, 1), positive, negatives, tau), query.regions.weight)
        logs = {"loss_standard": loss.detach(), "z_std": embedding_spread(z)}
        for number, (canvas, z) in enumerate(zip(composed, z_composed, strict=True)):
            image = first + canvas.regions.source.flatten()
            if self.config.batch_negatives:
                losses = info_nce_among(z.flatten(0, 1), key, image, negatives, tau)
            else:
                losses = info_nce(z.flatten(0, 1), key[image], negatives, tau)
            term = weighted_mean(losses, canvas.regions.weight)
            logs[f"loss_composed_{number}"] = term.detach()
            loss = loss + term
        return loss, logs

    @torch.no_grad()
    def _encode_keys(self, canvas: Canvas, progress: Progress) -> Tensor:
        """(W*B, D) keys in the order of the images of all processes; batch statistics are those of shuffled groups."""
        if not self.config.shuffle_bn_group:
            return gather(F.normalize(self.key_network(canvas)[:, 0], dim=-1))
        pixels = gather(canvas.pixels)  # (W*B, C, H, W)
        order = torch.from_numpy(permutation(len(pixels), progress.seed, field_key("shuffle"), progress.step))
        order = order.to(pixels.device)
        shuffled = Canvas(pixels=share(pixels[order]), regions=canvas.regions)
        keys = F.normalize(self.key_network(shuffled)[:, 0], dim=-1)
        return gather(keys)[order.argsort()]
