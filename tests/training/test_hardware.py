"""What is done otherwise for the sake of speed gives the same."""

from dataclasses import replace

import pytest
import tiny
import torch

from smalti.models.backbone import Backbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.recipes import get_recipe
from smalti.training.hardware import unfuse_attention
from smalti.views.loader import BatchOrder

VIT = TimmBackbone(name="vit_tiny_patch16_224", options={"patch_size": 8, "img_size": 32, "depth": 2})


def test_attention_is_the_same_without_its_fused_kernel() -> None:
    backbone = Backbone(VIT.build()).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = backbone(images).map
    assert fused(backbone)
    unfuse_attention(backbone)
    assert not fused(backbone)
    torch.testing.assert_close(backbone(images).map, before, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("precision", "cuda", "kept"), [("bf16", False, False), ("32", False, True), ("bf16", True, True)]
)
def test_only_bfloat16_on_a_cpu_goes_without(
    precision: str, cuda: bool, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(get_recipe("dino_small"), backbone=VIT, precision=precision, batch_size=8)  # type: ignore[arg-type]
    order = BatchOrder(num_images=16, batch_size=8, seed=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("smalti.methods.dino.synchronize_batch_norm", lambda network: None)
    assert fused(tiny.begin(recipe, order).method) == kept


def fused(network: torch.nn.Module) -> bool:
    return any(getattr(module, "fused_attn", False) for module in network.modules())
