"""CMC (arXiv:1906.05849) on any composition: the lightness of a crop must find its own color, and the reverse.

As in image mixture's tables the loss is softmax cross-entropy with Q negatives. CMC's released code keeps a running
embedding of every image of the data set in a memory bank; here, as in MoCo, a slow copy of the networks makes the keys
and a queue for either half holds the negatives, so memory does not grow with the data.

We add one layer: embeddings are centered over the batch (batch normalization without weights). The two
halves come from unlike networks, so the mean of the queries is far from that of the keys, and where keys in the queue
are older than the positive, the first thing to learn is to chase the moving mean: without the layer the images'
embeddings drew together until they were all one (z_std 0.008 after three epochs of 5000 images of CIFAR-10). A memory
bank has no such drift, its positives being as old as its negatives.

Batch statistics are those of the whole batch: query and key come from different networks, and CMC does not shuffle.

Legend: B images on this process, W processes, N canvases, K regions on each, D embedding, Q keys in a queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction, require_positive
from smalti.distributed import gather, rank, world_size
from smalti.errors import UserError
from smalti.losses.info_nce import info_nce, info_nce_among
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone, Features
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.heads import ProjectorConfig
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import Network
from smalti.models.queue import Queue
from smalti.models.split import SplitModel
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition

Halves = tuple[Tensor, Tensor]  # of lightness and of color


@dataclass(frozen=True, kw_only=True)
class CMCConfig(MethodConfig):
    """CMC's settings; the backbone is a `SplitBackbone`.

    Attributes:
        projector: from the features of either half to its embeddings.
        ema_momentum: m, weight that the key network keeps of itself at every step.
        queue: Q, keys in the queue of either half.
        temperature: tau.
        region_size: cells along a region read from the map.
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    ema_momentum: float = 0.999
    queue: int = 16384
    temperature: float = 0.07
    region_size: int = 7
    scored: ClassVar[str] = "query"

    def __post_init__(self) -> None:
        require_fraction(self, "ema_momentum")
        require_positive(self, "temperature")
        require_count(self, "queue", "region_size")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that CMC cannot learn from."""
        check_standard_views(views, 1, "the view that keys are made of")

    def build(self, backbone: nn.Module, data: DataInfo) -> "CMC":
        if not isinstance(backbone, SplitModel):
            raise UserError(
                f"backbone {type(backbone).__name__}", "a split into lightness and color", "use a SplitBackbone"
            )
        return CMC(backbone, self, data)


class CMC(Method):
    """Two query networks, one of either half, trained to find the key of the other half of the same image."""

    def __init__(self, backbone: nn.Module, config: CMCConfig, data: DataInfo) -> None:
        super().__init__()
        self.config = config
        self.query_network = Network(backbone, SplitProjectorConfig(config.projector), config.region_size)
        self.query_network.backbone.model.set_statistics(data.normalize.mean, data.normalize.std)
        self.key_network = momentum_copy(self.query_network)
        self.lightness_queue = Queue(config.queue, config.projector.dim)
        self.color_queue = Queue(config.queue, config.projector.dim)
        for network in (self.query_network, self.key_network):
            synchronize_batch_norm(network)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Softmax cross-entropy of lightness against color and of color against lightness, summed over the views.

        Keys are made of the first view, a standard one.
        """
        standard, *composed = views
        keys = self._encode_keys(standard)
        z = embed(self.query_network, standard)
        loss = self._contrast(z, standard, keys)
        logs = {"loss_standard": loss.detach(), "z_std": torch.stack([embedding_spread(half) for half in z]).mean()}
        for number, canvas in enumerate(composed):
            # Negatives are the other keys of the batch too, as in MosRep's Eq. 9.
            term = self._contrast(embed(self.query_network, canvas), canvas, keys, among=True)
            logs[f"loss_composed_{number}"] = term.detach()
            loss = loss + term
        self.lightness_queue.enqueue(keys[0])
        self.color_queue.enqueue(keys[1])
        return Step(loss, logs)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.query_network, self.key_network, self.config.ema_momentum)]

    def encoder(self) -> Backbone:
        return self.query_network.backbone

    def _contrast(self, z: Halves, canvas: Canvas, keys: Halves, among: bool = False) -> Tensor:
        """Both ways: z (N, K, D) of a half against the keys (W*B, D) of the other half and its queue."""
        first = rank() * (len(keys[0]) // world_size())  # number of this process's first image
        image, tau = first + canvas.regions.source.flatten(), self.config.temperature
        ways = (z[0], keys[1], self.color_queue), (z[1], keys[0], self.lightness_queue)
        losses = []
        for query, key, queue in ways:
            query, negatives = query.flatten(0, 1), queue.keys.clone()
            if among:
                losses.append(info_nce_among(query, key, image, negatives, tau))
            else:
                losses.append(info_nce(query, key[image], negatives, tau))
        return weighted_mean(losses[0] + losses[1], canvas.regions.weight)

    @torch.no_grad()
    def _encode_keys(self, canvas: Canvas) -> Halves:
        """(W*B, D) keys of either half, in the order of the images of all processes."""
        lightness, color = embed(self.key_network, canvas)
        return gather(lightness[:, 0]), gather(color[:, 0])


@dataclass(frozen=True)
class SplitProjectorConfig:
    """One projector for either half of the channels."""

    half: ProjectorConfig

    def build(self, channels: int) -> nn.Module:
        halves = [self.half.build(channels // 2) for _ in range(2)]
        return SplitProjector(*(CenteredProjector(half, self.half.dim) for half in halves))


class SplitProjector(nn.Module):
    """Features of N, the channels of lightness before those of color, -> (N, 2 * D)."""

    def __init__(self, lightness: nn.Module, color: nn.Module) -> None:
        super().__init__()
        self.lightness = lightness
        self.color = color

    def forward(self, features: Features) -> Tensor:
        maps, pooled = features.map.chunk(2, dim=1), features.pooled.chunk(2, dim=1)
        lightness, color = (Features(*half) for half in zip(maps, pooled, strict=True))
        return torch.cat([self.lightness(lightness), self.color(color)], dim=1)


class CenteredProjector(nn.Module):
    """A projector whose embeddings, (N, D), have mean 0 and deviation 1 over the batch."""

    def __init__(self, projector: nn.Module, dim: int) -> None:
        super().__init__()
        self.projector = projector
        self.center = nn.BatchNorm1d(dim, affine=False)

    def forward(self, features: Features) -> Tensor:
        return self.center(self.projector(features))


def embed(network: nn.Module, canvas: Canvas) -> Halves:
    """Canvas -> (N, K, D) of either half, length 1."""
    lightness, color = network(canvas).chunk(2, dim=-1)
    return F.normalize(lightness, dim=-1), F.normalize(color, dim=-1)
