"""What the machine can do, asked once."""

import os
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["bf16-mixed", "32-true"]


def computes_bfloat16() -> bool:
    """Whether bfloat16 is arithmetic here and not emulation: on CPUs without it, autocast is 20 times slower."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_precision(precision: Literal["auto", "bf16", "32"]) -> Precision:
    """A recipe's precision in Fabric's words."""
    if precision == "auto":
        return "bf16-mixed" if computes_bfloat16() else "32-true"
    return "bf16-mixed" if precision == "bf16" else "32-true"


def unfuse_attention(network: nn.Module) -> None:
    """Let timm's transformers attend by plain matrix products where bfloat16 is computed on a CPU.

    There torch's fused attention takes five to eight times as long, forward and backward (64 images of 65 tokens, 3
    heads, AMX). In 32 bits neither is faster at every size, and on GPUs the fused kernel stays.
    """
    modules: Iterator[Any] = network.modules()
    for module in modules:
        if hasattr(module, "fused_attn"):
            module.fused_attn = False


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
