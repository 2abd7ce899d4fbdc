"""The papers' claim in small: the same budget for each way of composing views, last-epoch scores, several seeds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.scale import Scale
from benchmarks.seeds import summary
from smalti import api
from smalti.training.fit import Engine
from smalti.training.hardware import available_cores

MOSREP = ("moco_v2_small", "moco_v2_multicrop_small", "mosrep_moco_small")
SYSTEMS = (
    "byol_small",
    "mosrep_byol_small",
    "ediy_small",
    "dino_multicrop_small",
    "mosrep_dino_small",
    "mixture_moco_small",
    "unmix_moco_small",
    "cmc_small",
    "mixture_cmc_small",
    "mcl_small",
    "supervised_small",
    "supervised_montage_small",
)
RECIPES = (*MOSREP, *SYSTEMS)
_SCORES = ("knn1", "knn5", "knn20", "knn200", "linear")


def one_run(name: str, seed: int, epochs: int, data: Path, runs: Path, scale: Scale) -> dict[str, Any]:
    """Train, or go on training, one recipe; kNN and linear accuracy of the last epoch."""
    out = runs / f"{name}-{epochs}-{seed}"
    engine = Engine(logger="none", score_every=-1)
    encoder = api.pretrain(data, out, scale.small(name, epochs, seed), engine=engine, resume=True).to(scale.device)
    workers = available_cores() if scale.device == "cuda" else 0
    train, test = (api.embed(encoder, data, split, workers=workers) for split in ("train", "test"))
    return api.evaluate_knn(train, test) | api.evaluate_linear(train, test)


def means(results: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Means and standard deviations over the seeds that are done."""
    return summary(
        {
            f"{name}/{stage.rpartition('/')[2]}": {score: value for score, value in result.items() if score in _SCORES}
            for name in RECIPES
            for stage, result in results.items()
            if stage.startswith(f"quality/{name}/{epochs} epochs/")
        }
    )
