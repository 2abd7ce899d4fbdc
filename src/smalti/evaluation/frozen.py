"""Proof that an evaluation left the network as it was."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn


def weights_digest(module: nn.Module) -> str:
    """A 32-digit hash of every parameter and buffer: name, type, shape and bits.

    Equal digests mean equal weights, wherever they are; one changed bit, say of a running mean, changes it.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> weights_digest(layer) == before
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes, since numpy knows no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def assert_frozen(module: nn.Module) -> Iterator[None]:
    """Check that the block changes no weight and no buffer of the module.

    Raises:
        RuntimeError: at the end of the block, if one changed; batch norm left in training mode is the usual cause.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with assert_frozen(layer):
        ...     features = layer(torch.ones(1, 2))
    """
    before = weights_digest(module)
    yield
    if weights_digest(module) != before:
        raise RuntimeError(
            "the network changed while it was being evaluated; is a batch norm in training mode, or its weights in "
            "an optimizer?"
        )
