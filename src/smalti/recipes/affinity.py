"""Affinity distillation from CLIP, the loss that MosRep prints as its Eq. 10."""

from dataclasses import replace

from smalti.methods.affinity import AffinityConfig
from smalti.recipes.moco_small import mosrep_moco_small
from smalti.training.recipe import Recipe


def affinity_small() -> Recipe:
    """Two views of 32 px and mosaics against a teacher's similarities.

    It cannot run without a teacher and labeled images: give --method.teacher open_clip:ARCHITECTURE/WEIGHTS, or a
    Python file with a function `teacher()`.
    """
    return replace(
        mosrep_moco_small(),
        name="affinity_small",
        source="MosRep (ICLR 2023), Eq. 10 as printed; the settings are ours",
        published="",
        method=AffinityConfig(region_size=4),
    )
