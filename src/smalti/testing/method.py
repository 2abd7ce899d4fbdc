"""What every method and every backbone promises.

Legend: B images, C channels of a map, h x w its size.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from smalti.distributed import rank, world_size
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress
from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.batch_norm import Groups
from smalti.models.momentum import update_targets
from smalti.testing.images import STATISTICS, Images
from smalti.testing.processes import run_in_processes
from smalti.training.checkpoint import load_checkpoint, save_checkpoint
from smalti.training.loop import train_step
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import canvases
from smalti.views.blocks import choose_block
from smalti.views.canvas import Canvas
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.plan import Composition

AnyModule = TypeVar("AnyModule", bound=nn.Module)
_LATER = Progress(step=4, total_steps=6, steps_per_epoch=3, seed=5)  # warm-ups are over


def check_backbone(config: BackboneConfig, size: int = 32) -> None:
    """Check that a network is a backbone: a map and a pooled feature of one width, and gradients to all that learns.

    Args:
        config: of the network.
        size: of the images, pixels.

    Raises:
        AssertionError: which says what was found and what a backbone promises.

    Example:
        >>> from smalti.models import TimmBackbone
        >>> from smalti.testing import check_backbone
        >>> check_backbone(TimmBackbone(name="resnet18"))
    """
    torch.manual_seed(0)
    backbone = _off_zero(Backbone(config.build()))
    images = torch.randn(2, config.in_channels, size, size)
    features = backbone(images)
    assert features.map.ndim == 4, f"map of shape {tuple(features.map.shape)}: expected (N, C, h, w)"
    assert features.pooled.shape == (2, backbone.dim), f"pooled {tuple(features.pooled.shape)}: expected (2, C)"
    (features.map.square().mean() + features.pooled.square().mean()).backward()
    _check_gradients(backbone)


def check_method(
    config: MethodConfig, views: Sequence[Composition], backbone: BackboneConfig, batch: int = 8, classes: int = 3
) -> None:
    """Check that a method learns with all its weights, keeps its whole state in a checkpoint, and can be copied.

    Args:
        config: of the method, as small as it goes.
        views: small ones that it can learn from.
        backbone: a small one.
        batch: images.
        classes: of the images; 0 for images without labels.

    Raises:
        AssertionError: which says what was found and what a method promises.

    Example:
        >>> from smalti.methods import MoCoConfig
        >>> from smalti.models import ProjectorConfig, TimmBackbone
        >>> from smalti.testing import check_method
        >>> from smalti.views import Crop
        >>> config = MoCoConfig(projector=ProjectorConfig(hidden=16, dim=16), queue=20, shuffle_bn_group=4)
        >>> backbone = TimmBackbone(name="resnet18", stem="stride8", options={"channels": [8, 8, 16, 16]})
        >>> check_method(config, (Crop(size=32), Crop(size=32)), backbone)
    """
    config.check(views)
    source = Images(3 * batch, classes)
    order = BatchOrder(num_images=3 * batch, batch_size=batch, seed=3, block=choose_block(batch, views))
    method = make_method(config, backbone, source)
    shown = double_views(source, views, order, step=0)

    _check_learning(copy.deepcopy(method), shown)
    original, copied = (descend(each, shown, _LATER) for each in (method, copy.deepcopy(method)))
    assert original == copied, "a deep copy: expected it to train as the original does"

    recipe = Recipe(
        name="check",
        views=tuple(views),
        backbone=backbone,
        method=config,
        epochs=2,
        batch_size=batch,
        block=order.block_size,
        precision="32",
    )
    _check_checkpoint(recipe, source, order)


def check_processes(
    config: MethodConfig, views: Sequence[Composition], backbone: BackboneConfig, batch: int = 8, classes: int = 3
) -> None:
    """Check that two processes learn what one learns, each from its half of the batch; see `check_method`.

    The three settings travel to other processes, so their classes have to stand in a module that can be imported.

    Raises:
        AssertionError: which says what was found and what a method promises.

    Example:
        >>> from smalti.methods import BYOLConfig
        >>> from smalti.models import ProjectorConfig, TimmBackbone
        >>> from smalti.testing import check_processes
        >>> from smalti.views import Crop
        >>> config = BYOLConfig(projector=ProjectorConfig(hidden=16, dim=16, norm=True), predictor_hidden=16)
        >>> backbone = TimmBackbone(name="resnet18", stem="stride8", options={"channels": [8, 8, 16, 16]})
        >>> check_processes(config, (Crop(size=32), Crop(size=32)), backbone)  # doctest: +SKIP
    """
    arguments = (config, tuple(views), backbone, batch, classes)
    ((losses, state),) = run_in_processes(two_steps, 1, *arguments)
    for others, held in run_in_processes(two_steps, 2, *arguments):
        torch.testing.assert_close(others, losses, atol=1e-9, rtol=1e-7, msg="two processes: expected one's losses")
        for name, value in state.items():
            torch.testing.assert_close(held[name], value, atol=1e-8, rtol=1e-6, msg=f"two processes: {name} differs")


def make_method(config: MethodConfig, backbone: BackboneConfig, source: Images) -> Method:
    """The method in float64, its weights moved off any zero that they start at, so that gradients arrive everywhere."""
    torch.manual_seed(0)
    return _off_zero(
        config.build(backbone.build(), DataInfo(STATISTICS.normalize, source.class_names, len(source))).double()
    )


def double_views(source: Images, views: Sequence[Composition], order: BatchOrder, step: int) -> list[Canvas]:
    """Canvases in float64 of this process's share of a batch."""
    dataset = ViewDataset(source, tuple(views), order, STATISTICS, "device", rank=rank(), world_size=world_size())
    batch = dataset[step]
    assert batch.images is not None
    batch.images = batch.images.double() / 255
    return canvases(batch, tuple(views), STATISTICS.normalize)


def descend(method: Method, views: Sequence[Canvas], progress: Progress) -> Tensor:
    """One step of plain gradient descent, over all processes; the loss."""
    torch.manual_seed(progress.step)  # for what is dropped at random
    loss = method(views, progress).loss
    loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * _mean(parameter.grad))
                parameter.grad = None
    update_targets(method.momentum_pairs(progress))
    return _mean(loss.detach())


def _off_zero(module: AnyModule) -> AnyModule:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def _check_learning(method: Method, views: Sequence[Canvas]) -> None:
    targets = {id(p) for pair in method.momentum_pairs(_LATER) for p in pair.target.parameters()}
    loss, logs = method(views, _LATER)
    assert loss.ndim == 0, f"a loss of shape {tuple(loss.shape)}: expected a scalar"
    assert loss.isfinite(), f"a loss of {loss}: expected a finite one"
    for name, value in logs.items():
        assert value.ndim == 0, f"logs[{name!r}] of shape {tuple(value.shape)}: expected a scalar"
        assert not value.requires_grad, f"logs[{name!r}]: expected it detached"
    loss.backward()
    _check_gradients(method)
    learning = {name for name, p in method.named_parameters() if p.requires_grad and id(p) in targets}
    assert not learning, f"targets that take gradients: {sorted(learning)[:3]}; use momentum_copy"
    own = {id(p) for p in method.parameters()}
    assert all(id(p) in own for p in method.encoder().parameters()), "encoder(): expected a part of the method"


def _check_gradients(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name}: expected no gradient, since requires_grad is False"
            continue
        assert parameter.grad is not None, f"{name}: expected a gradient; freeze or remove what is not used"
        assert parameter.grad.isfinite().all(), f"{name}: expected a finite gradient"
        # A bias before a normalization has none.
        assert parameter.ndim == 1 or parameter.grad.any(), f"{name}: expected a gradient other than zero"


def _check_checkpoint(recipe: Recipe, source: Images, order: BatchOrder) -> None:
    """Two steps, a checkpoint, two more; and the same from the checkpoint into other weights and buffers."""

    def begin() -> TrainState:
        return TrainState.begin(recipe, STATISTICS.normalize, order.steps_per_epoch, source.class_names, len(source))

    def train(state: TrainState, until: int) -> None:
        dataset, fabric = ViewDataset(source, recipe.views, order, STATISTICS, "device"), Fabric(accelerator="cpu")
        for step in range(state.next_step, until):
            train_step(state, canvases(dataset[step], recipe.views, state.normalize), step, fabric)
            state.next_step = step + 1

    straight, resumed = begin(), begin()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        train(straight, until=4)
        save_checkpoint(path, straight)
        train(straight, until=6)
        with torch.no_grad():
            for tensor in resumed.method.state_dict().values():
                tensor += 1
        load_checkpoint(path, resumed)
    train(resumed, until=6)
    expected, found = straight.method.state_dict(), resumed.method.state_dict()
    differing = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not differing, f"a resumed run differs in {differing[:3]}: keep what a step changes in buffers"


def two_steps(
    config: MethodConfig, views: Sequence[Composition], backbone: BackboneConfig, batch: int, classes: int
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses of two steps on this process's share, and what the method then holds; see `check_processes`."""
    source = Images(3 * batch, classes)
    order = BatchOrder(num_images=3 * batch, batch_size=batch, seed=3, block=choose_block(batch // 2, views))
    method = make_method(config, backbone, source)
    losses = []
    for step in range(2):
        progress = replace(_LATER, step=step + 3)
        losses.append(descend(method, double_views(source, views, order, step), progress))
    own = tuple(  # the statistics of a split normalization are each process's own
        f"{name}.{buffer}"
        for name, module in method.named_modules()
        if isinstance(getattr(module, "groups", None), Groups)
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    )
    return losses, {name: value for name, value in method.state_dict().items() if name not in own}


def _mean(tensor: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor / world_size()
