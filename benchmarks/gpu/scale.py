"""How large the measurements are: in earnest on a GPU, or tiny to see on any machine that they run."""

from dataclasses import dataclass, replace

import torch

from smalti.recipes import get_recipe
from smalti.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of the measurements.

    Attributes:
        device: where.
        batch: images of a large step.
        stored: side of the stored images of a large step, pixels.
        crop: side of its standard views, pixels.
        backbone: of a large step.
        rounds: repetitions.
        steps: steps that are timed as one.
        bank: features of the kNN bank.
        dim: of the features.
        queries: of kNN.
        small_batch: images of a small step; 0 for the recipe's.
        speed_epochs: epochs that a small recipe's speed is taken over.
    """

    device: str = "cuda"
    batch: int = 256
    stored: int = 320
    crop: int = 224
    backbone: str = "resnet50"
    rounds: int = 7
    steps: int = 5
    bank: int = 1_281_167
    dim: int = 2048
    queries: int = 50_000
    small_batch: int = 0
    speed_epochs: int = 3

    @classmethod
    def smoke(cls) -> "Scale":
        """Tiny, and on a GPU only where there is one."""
        return cls(
            device="cuda" if torch.cuda.is_available() else "cpu",
            batch=8,
            stored=48,
            crop=32,
            backbone="resnet18",
            rounds=2,
            steps=1,
            bank=2000,
            dim=64,
            queries=200,
            small_batch=8,
            speed_epochs=1,
        )

    def large(self, name: str) -> Recipe:
        """An ImageNet recipe at this scale."""
        recipe = get_recipe(name)
        if self.crop != recipe.image_size:
            recipe = recipe.resized(self.crop)
        return replace(recipe, backbone=replace(recipe.backbone, name=self.backbone), batch_size=self.batch)

    def small(self, name: str, epochs: int, seed: int = 0) -> Recipe:
        """A CIFAR recipe at this scale."""
        recipe = replace(get_recipe(name), epochs=epochs, seed=seed)
        return replace(recipe, batch_size=self.small_batch) if self.small_batch else recipe
