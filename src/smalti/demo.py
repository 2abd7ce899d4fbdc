"""The demonstration: the main job on real photographs, scored before and after."""

import json
import shutil
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from smalti.api import embed, pretrain
from smalti.evaluation.features import FeatureSet, prepare
from smalti.evaluation.knn import knn_scores
from smalti.files import atomic
from smalti.images.catalog import open_source
from smalti.images.statistics import measure
from smalti.models.backbone import Backbone
from smalti.models.encoder import Encoder, EncoderInfo
from smalti.recipes.photos import photos_demo
from smalti.training.fit import Engine
from smalti.training.recipe import Recipe

# The patches' own side, pixels. Training crops are enlarged to 48 px from about 3/4 of it, so whole patches show things
# as large as they were in training when they are not shrunk (Touvron et al. 2019, arXiv:1906.06423).
_SIDE = 64


def run_demo(out: Path) -> dict[str, float]:
    """Pre-train on the embedded photographs and write the run folder, with `views.png` and `demo.json`.

    Args:
        out: the run folder; one that is there is replaced.

    Returns:
        What `demo.json` holds: 1-NN accuracies, 0 to 1, on raw pixels, random weights and trained weights, the number
        of classes, and the seconds it all took.
    """
    begun = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    recipe = photos_demo()
    random = _random_encoder(recipe)
    trained = pretrain("photos", out, recipe, engine=Engine(score_every=2))
    scores = {
        "knn_pixels": _nearest(*(_pixels(split) for split in ("train", "test"))),
        "knn_random": _nearest(*(embed(random, "photos", split, image_size=_SIDE) for split in ("train", "test"))),
        "knn_trained": _nearest(*(embed(trained, "photos", split, image_size=_SIDE) for split in ("train", "test"))),
        "classes": len(open_source("photos").class_names),
        "seconds": time.perf_counter() - begun,
    }
    with atomic(out / "demo.json") as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def _random_encoder(recipe: Recipe) -> Encoder:
    """The recipe's network before training, drawn from its own seed."""
    torch.manual_seed(recipe.seed)
    info = EncoderInfo(
        backbone=recipe.backbone, pixels=measure(open_source("photos")), image_size=recipe.image_size, crop_fraction=1.0
    )
    return Encoder(Backbone(recipe.backbone.build()), info)


def _pixels(split: Literal["train", "test"]) -> FeatureSet:
    """The pixels of every image as features."""
    source = open_source("photos", split)
    pixels = np.stack([prepare(source.read(index), _SIDE, _SIDE).numpy() for index in range(len(source))])
    return FeatureSet(
        features=pixels.reshape(len(source), -1).astype(np.float32) / 255,
        labels=source.labels,
        names=tuple(source.image_name(index) for index in range(len(source))),
        class_names=source.class_names,
    )


def _nearest(train: FeatureSet, test: FeatureSet) -> float:
    return knn_scores(train, test, (1,))[1]
