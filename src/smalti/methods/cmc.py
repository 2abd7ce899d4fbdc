"""CMC (arXiv:1906.05849) on any composition: the lightness of a crop must find its own color, and the reverse.

The loss is softmax cross-entropy with Q negatives: `--softmax` of the released code, and image mixture's choice.

Batch statistics are those of the whole batch: the two halves have networks of their own, and CMC does not shuffle.

Legend: B images on this process, W processes, N canvases, K regions on each, D embedding, Q negatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction, require_positive
from smalti.distributed import gather, rank, world_size
from smalti.errors import UserError
from smalti.losses.info_nce import info_nce, info_nce_among
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone, as_backbone
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.heads import ProjectorConfig
from smalti.models.memory_bank import MemoryBank
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import Network
from smalti.models.queue import Queue
from smalti.models.split import SplitModel
from smalti.models.split_projector import SplitProjectorConfig
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition
from smalti.views.rng import field_key, integers

Halves = tuple[Tensor, Tensor]  # of lightness and of color


@dataclass(frozen=True, kw_only=True)
class CMCConfig(MethodConfig):
    """CMC's settings; the backbone is a `SplitBackbone`.

    Attributes:
        projector: from the features of each half to its embeddings.
        negatives: "bank" is the paper's: negatives and positives are stored embeddings, two for every image of the
            data set. "queue" is MoCo's way, for data sets too large for a bank: see `QueueCMC`.
        num_negatives: Q, drawn from the bank for each image and step, or keys in the queue of each half.
        bank_momentum: what a stored embedding keeps of itself when its image is seen; of a bank alone.
        ema_momentum: m, what the key network keeps of itself at every step; of a queue alone.
        temperature: tau.
        region_size: cells along a region read from the map.

    Example:
        >>> from smalti.methods import CMCConfig
        >>> CMCConfig(negatives="queue", num_negatives=4096).temperature
        0.07
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    negatives: Literal["bank", "queue"] = "bank"
    num_negatives: int = 16384
    bank_momentum: float = 0.5
    ema_momentum: float = 0.999
    temperature: float = 0.07
    region_size: int = 7
    scored: ClassVar[str] = "query"

    def __post_init__(self) -> None:
        require_fraction(self, "bank_momentum", "ema_momentum")
        require_positive(self, "temperature")
        require_count(self, "num_negatives", "region_size")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that CMC cannot learn from."""
        check_standard_views(views, 1, "a standard view, from which keys are made")

    def build(self, backbone: nn.Module, data: DataInfo) -> "CMC | QueueCMC":
        return (CMC if self.negatives == "bank" else QueueCMC)(backbone, self, data)


class CMC(Method):
    """CMC with its memory bank: each half of a region finds the stored other half of its image among drawn ones.

    Raises:
        UserError: the backbone is not a split one, or the number of images is not known.

    Example:
        >>> from smalti.methods import CMC, CMCConfig, DataInfo, Progress
        >>> from smalti.models import SplitBackbone, TimmBackbone
        >>> from smalti.views import Collate, Crop
        >>> collate = Collate([Crop(size=32)])
        >>> views = collate([{"image": image, "index": n} for n, image in enumerate(torch.rand(8, 3, 40, 40))])
        >>> backbone = SplitBackbone(half=TimmBackbone(name="resnet18", stem="stride8", width=0.25)).build()
        >>> method = CMC(backbone, CMCConfig(num_negatives=16), DataInfo(collate.normalize, num_images=8))
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: CMCConfig, data: DataInfo) -> None:
        super().__init__()
        if not data.num_images:
            raise UserError(
                "an unknown number of images",
                "a data set of known size: the bank holds an embedding of every image",
                'give DataInfo its num_images, or use negatives="queue"',
            )
        self.config = config
        self.query_network = _make_network(backbone, config, data)
        self.lightness_bank, self.color_bank = (
            MemoryBank(data.num_images, config.projector.dim, config.bank_momentum) for _ in range(2)
        )

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Cross-entropy of lightness against color and of color against lightness, summed over the views.

        The first view, a standard one, is what then moves the bank.

        Raises:
            UserError: the views do not tell which images of the data set they show.
        """
        standard, *composed = views
        if standard.regions.index is None:
            raise UserError(
                "views without the numbers of their images",
                "the index of every image in the data set, under which the bank stores it",
                'collate dictionaries with an "index", or use negatives="queue"',
            )
        image = standard.regions.index[:, :1]  # (B, 1)
        candidates = torch.cat([image, self._draw(standard, progress)], dim=1)  # (B, 1 + Q), the positive first
        z = embed(self.query_network, standard)
        loss = self._contrast(z, standard, candidates)
        logs = {"loss_standard": loss.detach(), "z_std": _spread(z)}
        for number, canvas in enumerate(composed):
            term = self._contrast(embed(self.query_network, canvas), canvas, candidates)
            logs[f"loss_composed_{number}"] = term.detach()
            loss = loss + term
        self._update_banks(image[:, 0], z)
        return Step(loss, logs)

    @property
    def memory(self) -> int:
        return len(self.color_bank.entries)

    @torch.no_grad()
    def remember(self, views: Sequence[Canvas], progress: Progress) -> None:
        standard = views[0]
        if standard.regions.index is not None:
            self._update_banks(standard.regions.index[:, 0], embed(self.query_network, standard))

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return []

    def encoder(self) -> Backbone:
        return self.query_network.backbone

    def _contrast(self, z: Halves, canvas: Canvas, candidates: Tensor) -> Tensor:
        """Both ways: z (N, K, D) of a half against the stored other halves of the candidates (B, 1 + Q)."""
        index = candidates[canvas.regions.source.flatten()]  # (N*K, 1 + Q)
        losses = []
        for query, bank in zip(z, (self.color_bank, self.lightness_bank), strict=True):
            logits = bank.similarities(query.flatten(0, 1), index) / self.config.temperature
            losses.append(logits.logsumexp(dim=1) - logits[:, 0])
        return weighted_mean(losses[0] + losses[1], canvas.regions.weight)

    def _update_banks(self, image: Tensor, z: Halves) -> None:
        for half, bank in zip(z, (self.lightness_bank, self.color_bank), strict=True):
            bank.update(gather(image), gather(half[:, 0].detach()))

    def _draw(self, standard: Canvas, progress: Progress) -> Tensor:
        """(B, Q) images of the data set for each of the batch, with replacement; its own may be among them."""
        count = len(standard.pixels)
        position = np.arange(rank() * count, (rank() + 1) * count)[:, None]  # in the batch of all processes
        number, images = np.arange(self.config.num_negatives), len(self.color_bank.entries)
        drawn = integers(images, progress.seed, field_key("negatives"), progress.step, position, number)
        return torch.from_numpy(drawn).to(standard.pixels.device)


class QueueCMC(Method):
    """CMC with MoCo's keys: a slow copy of the networks makes them, and a queue for each half holds the negatives.

    Memory does not grow with the data. With that comes one layer of ours: embeddings are centered over the batch. The
    two halves come from unlike networks, so the mean of the queries is far from that of the keys, and where keys in the
    queue are older than the positive, the first thing to learn is to chase the moving mean: without the layer the
    images' embeddings drew together until they were all one (z_std 0.008 after three epochs of 5000 images of
    CIFAR-10). A memory bank has no such drift, its positives being as old as its negatives.

    Raises:
        UserError: the backbone is not a split one.

    Example:
        >>> from smalti.methods import CMCConfig, DataInfo, Progress, QueueCMC
        >>> from smalti.models import SplitBackbone, TimmBackbone
        >>> from smalti.views import Collate, Crop
        >>> collate = Collate([Crop(size=32)])
        >>> views = collate(list(torch.rand(8, 3, 40, 40)))
        >>> backbone = SplitBackbone(half=TimmBackbone(name="resnet18", stem="stride8", width=0.25)).build()
        >>> config = CMCConfig(negatives="queue", num_negatives=64)
        >>> method = QueueCMC(backbone, config, DataInfo(collate.normalize))
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: CMCConfig, data: DataInfo) -> None:
        super().__init__()
        self.config = config
        self.query_network = _make_network(backbone, config, data)
        self.key_network = momentum_copy(self.query_network)
        self.lightness_queue = Queue(config.num_negatives, config.projector.dim)
        self.color_queue = Queue(config.num_negatives, config.projector.dim)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Cross-entropy of lightness against color and of color against lightness, summed over the views.

        Keys are made of the first view, a standard one.
        """
        standard, *composed = views
        keys = self._encode_keys(standard)
        z = embed(self.query_network, standard)
        loss = self._contrast(z, standard, keys)
        logs = {"loss_standard": loss.detach(), "z_std": _spread(z)}
        for number, canvas in enumerate(composed):
            # Negatives are the other keys of the batch too, as in MosRep's Eq. 9.
            term = self._contrast(embed(self.query_network, canvas), canvas, keys, among=True)
            logs[f"loss_composed_{number}"] = term.detach()
            loss = loss + term
        self.lightness_queue.enqueue(keys[0])
        self.color_queue.enqueue(keys[1])
        return Step(loss, logs)

    @property
    def memory(self) -> int:
        return self.config.num_negatives

    def remember(self, views: Sequence[Canvas], progress: Progress) -> None:
        for queue, keys in zip((self.lightness_queue, self.color_queue), self._encode_keys(views[0]), strict=True):
            queue.enqueue(keys)

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


def embed(network: nn.Module, canvas: Canvas) -> Halves:
    """Canvas -> (N, K, D) of either half, length 1."""
    lightness, color = network(canvas).chunk(2, dim=-1)
    return F.normalize(lightness, dim=-1), F.normalize(color, dim=-1)


def _make_network(backbone: nn.Module, config: CMCConfig, data: DataInfo) -> Network:
    """The split backbone, which is told how pixels are normalized, and a projector for each half."""
    backbone = as_backbone(backbone)
    if not isinstance(backbone.model, SplitModel):
        raise UserError(
            f"backbone {type(backbone.model).__name__}", "a split into lightness and color", "use a SplitBackbone"
        )
    backbone.set_statistics(data.normalize)
    projector = SplitProjectorConfig(half=config.projector, centered=config.negatives == "queue")
    network = Network(backbone, projector, config.region_size)
    synchronize_batch_norm(network)
    return network


def _spread(z: Halves) -> Tensor:
    return torch.stack([embedding_spread(half) for half in z]).mean()
