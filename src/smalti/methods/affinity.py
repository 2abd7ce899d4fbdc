"""Affinity distillation of a small model from CLIP: Eq. 10 of MosRep (ICLR 2023) as it is printed.

Images of a batch are compared with the texts and the images of all processes' batch. The student, which sees images
alone, learns the teacher's similarities: with its embedding in place of the teacher's image embedding it should find
the same texts, and in place of the teacher's text embedding the same images. The text of an image names its class. The
denominators of the teacher's terms are printed without a temperature and taken as those of a softmax; the temperatures
are not given, and CLIP's own is the default.

The teacher sees the first standard view. The student sees every canvas; each of its regions, in mosaics too, is
compared with the teacher's embedding of its source image.

Legend: B images on this process, W processes, N canvases, K regions on each, D width of the teacher's embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_positive
from smalti.distributed import gather
from smalti.errors import UserError
from smalti.losses.affinity import affinity_loss
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.heads import ProjectorConfig
from smalti.models.momentum import MomentumPair
from smalti.models.network import Network
from smalti.models.teacher import Teacher, load_teacher
from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class AffinityConfig(MethodConfig):
    """Affinity distillation's settings.

    Attributes:
        teacher: "open_clip:ARCHITECTURE/WEIGHTS", or a Python file with a function `teacher()`, see
            `smalti.models.teacher`.
        template: text of a class, with {} for the name of the class.
        projector: from features to embeddings; its `dim` is replaced by the teacher's.
        student_temperature: tau_S.
        teacher_temperature: tau_T.
        region_size: cells along a region read from the map.

    Example:
        >>> from smalti.methods import AffinityConfig
        >>> AffinityConfig(teacher="open_clip:ViT-B-32/openai").template
        'a photo of a {}'
    """

    teacher: str = ""
    template: str = "a photo of a {}"
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    student_temperature: float = 0.01
    teacher_temperature: float = 0.01
    region_size: int = 7
    scored: ClassVar[str] = "student"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise UserError(f"template {self.template!r}", "{} in place of the class", 'use e.g. "a photo of a {}"')
        require_positive(self, "student_temperature", "teacher_temperature")
        require_count(self, "region_size")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that the method cannot learn from."""
        check_standard_views(views, 1, "the view that the teacher sees")

    def build(self, backbone: nn.Module, data: DataInfo) -> "AffinityDistillation":
        teacher = load_teacher(self.teacher)
        if not data.class_names:
            raise UserError("images without classes", "labeled ones: texts are made of their classes", "label them")
        return AffinityDistillation(backbone, self, data, teacher)


class AffinityDistillation(Method):
    """A student that learns to replace the embeddings of a frozen teacher.

    Args:
        backbone: of the student; any network that `Backbone` can read.
        config: its settings.
        data: normalization of the pixels, and the classes of which texts are made.
        teacher: of images and texts.

    Example:
        >>> from smalti import Normalize
        >>> from smalti.methods import AffinityConfig, AffinityDistillation, DataInfo
        >>> from smalti.models import TimmBackbone
        >>> class Colors:
        ...     def encode_image(self, rgb):
        ...         return rgb.mean(dim=(2, 3))
        ...
        ...     def encode_text(self, texts):
        ...         return torch.eye(3)[[("red", "green", "blue").index(text.split()[-1]) for text in texts]]
        >>> data = DataInfo(Normalize((0.5,) * 3, (0.2,) * 3), class_names=("red", "blue"))
        >>> student = AffinityDistillation(TimmBackbone(name="resnet18").build(), AffinityConfig(), data, Colors())
        >>> student.texts.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """

    texts: Tensor

    def __init__(self, backbone: nn.Module, config: AffinityConfig, data: DataInfo, teacher: Teacher) -> None:
        super().__init__()
        self.config = config
        self._normalize = data.normalize
        self._teacher = (teacher,)  # in a tuple, out of sight of the optimizer and of checkpoints
        with torch.no_grad():
            texts = teacher.encode_text([config.template.format(name) for name in data.class_names])
        self.register_buffer("texts", F.normalize(texts.float().cpu(), dim=1), persistent=False)  # (classes, D)
        projector = replace(config.projector, dim=texts.shape[1])
        self.student = Network(backbone, projector, config.region_size)
        synchronize_batch_norm(self.student)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Eq. 10 for every canvas, summed."""
        standard = views[0]
        if standard.regions.label is None:
            raise UserError("images without labels", "labeled ones: texts are made of their classes", "label them")
        image = self._encode_images(standard.pixels)  # (B, D)
        text = self.texts[standard.regions.label[:, 0]]  # (B, D)
        images, texts = gather(image), gather(text)  # (W*B, D), B' of Eq. 10
        temperatures = self.config.student_temperature, self.config.teacher_temperature
        terms, logs = [], {}
        for number, canvas in enumerate(views):
            z = F.normalize(self.student(canvas), dim=-1)  # (N, K, D)
            source = canvas.regions.source.flatten()
            to_texts = affinity_loss(z.flatten(0, 1), image[source], texts, *temperatures)
            to_images = affinity_loss(z.flatten(0, 1), text[source], images, *temperatures)
            terms.append(weighted_mean(to_texts + to_images, canvas.regions.weight))
            logs[f"loss_view_{number}"] = terms[-1].detach()
            if number == 0:
                logs["z_std"] = embedding_spread(z)
        return Step(torch.stack(terms).sum(), logs)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return []

    def encoder(self) -> Backbone:
        return self.student.backbone

    @torch.no_grad()
    def _encode_images(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) normalized pixels -> (B, D) of length 1, in the texts' type."""
        teacher: Any = self._teacher[0]
        if isinstance(teacher, nn.Module):
            teacher.to(pixels.device)
        rgb = self._normalize.undo(pixels)
        if hasattr(teacher, "mean"):
            rgb = Normalize(teacher.mean, teacher.std)(rgb)
        return F.normalize(teacher.encode_image(rgb).to(self.texts.dtype), dim=1)
