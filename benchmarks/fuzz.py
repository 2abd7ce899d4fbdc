"""`make fuzz TRIES=2000`: damaged files of every kind, each of which is read or refused in one line."""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks.figures import machine
from smalti.errors import BadImageError, UserError
from smalti.evaluation.features import FeatureSet
from smalti.images.decode import decode
from smalti.models.checkpoints import load_encoder
from smalti.models.encoder import EncoderInfo, save_encoder
from smalti.models.timm_backbone import TimmBackbone
from smalti.recipes import get_recipe
from smalti.runs import RunFolder
from smalti.testing.images import STATISTICS, textured
from smalti.training.checkpoint import load_checkpoint, save_checkpoint
from smalti.training.state import TrainState

_NARROW = TimmBackbone(name="resnet18", stem="stride8", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]})


def fuzz(tries: int, seed: int = 0) -> dict[str, list[str]]:
    """Damage each kind of file so many times; by kind, what went neither right nor was refused.

    Args:
        tries: of every kind.
        seed: of the damage.
    """
    with tempfile.TemporaryDirectory() as folder:
        kinds = _kinds(Path(folder))
        return {
            name: list(filter(None, (_try(*kind, np.random.default_rng((seed, number))) for number in range(tries))))
            for name, kind in kinds.items()
        }


def _kinds(folder: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """Whole files, and what reads them."""
    image = Image.fromarray(textured(1)[0])
    kinds: dict[str, tuple[bytes, Callable[[bytes], object]]] = {}
    for form in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM"):
        file = io.BytesIO()
        image.save(file, form)
        kinds[form] = (file.getvalue(), decode)
    encoder = load_encoder("random:resnet18", backbone=_NARROW)
    weights = save_encoder(folder, encoder.backbone, replace(encoder.info, backbone=_NARROW))
    kinds["encoder.json"] = ((folder / "encoder.json").read_bytes(), _from_text(EncoderInfo.from_json))
    kinds["weights"] = (weights.read_bytes(), _through(folder / "alone.safetensors", load_encoder))
    features = FeatureSet(np.eye(4, dtype=np.float32), np.arange(4), tuple("abcd"), tuple("wxyz"))
    features.save(folder / "features.npz")
    kinds["features"] = ((folder / "features.npz").read_bytes(), _through(folder / "f.npz", FeatureSet.load))
    run = RunFolder(folder / "run")
    run.begin(json.dumps({"epochs": 3}), lambda: {"images": 3}, resume=False)
    kinds["recipe.json"] = ((run.path / "recipe.json").read_bytes(), _through(run.path / "recipe.json", _resume(run)))
    small = replace(get_recipe("mosrep_moco_small"), backbone=_NARROW)
    state = TrainState.begin(small, STATISTICS.normalize, steps_per_epoch=4)
    save_checkpoint(run.checkpoint, state)
    kinds["checkpoint"] = (
        run.checkpoint.read_bytes(),
        _through(run.checkpoint, lambda path: load_checkpoint(path, state)),
    )
    return kinds


def _try(whole: bytes, read: Callable[[bytes], object], random: np.random.Generator) -> str:
    """What went wrong, or ""."""
    try:
        read(_damaged(whole, random))
    except (UserError, BadImageError) as error:
        return "" if len(str(error).splitlines()) <= 1 else f"more than one line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _damaged(whole: bytes, random: np.random.Generator) -> bytes:
    data, at = bytearray(whole), int(random.integers(len(whole)))
    match random.integers(6):
        case 0:
            del data[at:]
        case 1:
            data[at] ^= 1 << int(random.integers(8))
        case 2:
            data[at : at + 64] = bytes(min(64, len(data) - at))
        case 3:
            data[at : at + 8] = random.bytes(8)
        case 4:
            data[at:at] = data[: int(random.integers(200))]
        case 5:
            del data[at : at + int(random.integers(1, 200))]
    return bytes(data)


def _from_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode(errors="replace"))


def _through(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def write_and_read(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return write_and_read


def _resume(run: RunFolder) -> Callable[[Path], object]:
    return lambda path: (run.began(), run.begin(json.dumps({"epochs": 3}), dict, resume=True))


def main(tries: int = 2000, seed: int = 0, out: Path = Path("results/fuzz.json")) -> None:
    """Damage files, and write how often and with what."""
    torch.set_num_threads(1)
    failures = fuzz(tries, seed)
    about = {"machine": machine(), "tries of each kind": tries, "seed": seed}
    out.write_text(json.dumps({**about, "failures": failures}, indent=2) + "\n")
    print("\n".join(f"{name:<14} {len(texts)} of {tries} failed {texts[:2] or ''}" for name, texts in failures.items()))


if __name__ == "__main__":
    tyro.cli(main)
