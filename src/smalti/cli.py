"""The command line: one typed dataclass a command, heavy imports inside each.

| exit code     | meaning                                                            |
|---------------|--------------------------------------------------------------------|
| 0             | done                                                               |
| 1             | a defect of ours, with a traceback                                 |
| 2             | something the user can put right, told in one line                 |
| 128 + signal  | ended by a signal, see `smalti.signals`; pretrain has saved itself |
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

import tyro
from tyro.conf import Positional, arg

from smalti.errors import UserError
from smalti.files import atomic
from smalti.signals import Stopped, raised
from smalti.text import printable

if TYPE_CHECKING:
    from smalti.models.encoder import Encoder
    from smalti.training.recipe import Recipe

_DEFAULT_RECIPE = "mosrep_moco"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with raised():
            command = _command(arguments)
            command(arguments[1:])
    except Stopped as stop:
        hint = "; the same command with --resume continues" if arguments[0] == "pretrain" else ""
        print(f"smalti: {stop}{hint}", file=sys.stderr)
        return 128 + stop.number
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what reads the output has gone
        return 128 + signal.SIGPIPE
    except Exception as error:
        reason = _reason(error)
        if debug or reason is None:
            raise
        print(f"smalti: {reason}", file=sys.stderr)
        return 2
    return 0


def _reason(error: Exception) -> str | None:
    """One line, where it is something that the user can put right; None for a defect of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return str(UserError(f"{where}{error.strerror or error}", "files that can be read and written", "check them"))
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return str(UserError(f"more memory than there is ({text})", "what fits", "use smaller sizes or batches"))
    return None


def _command(arguments: list[str]) -> Callable[[list[str]], None]:
    if not arguments or arguments[0] in ("-h", "--help"):
        return _help
    if arguments[0] == "--version":
        return _version
    if arguments[0] not in _COMMANDS:
        raise UserError(f"command {arguments[0]!r}", ", ".join(_COMMANDS), "run smalti --help")
    return _COMMANDS[arguments[0]]


def _help(arguments: list[str]) -> None:
    print("usage: smalti COMMAND ...    (smalti COMMAND --help lists its options)\n")
    for name, command in _COMMANDS.items():
        print(f"  {name:<10} {(command.__doc__ or '').splitlines()[0]}")


def _version(arguments: list[str]) -> None:
    from importlib.metadata import version

    print(f"smalti {version('smalti')}")


@dataclass(kw_only=True)
class RecipeChoice:
    """Which recipe a command starts from."""

    recipe: str = _DEFAULT_RECIPE
    """A recipe's name (see smalti recipes), or a Python file with def recipe() -> Recipe."""
    views_of: str = ""
    """Another recipe, whose views to learn from: any method takes any composition."""
    size: int = 0
    """Side of the standard views, pixels; the other views, tiles and shifts follow. 0 for the recipe's own."""


@dataclass(kw_only=True)
class ClassChoice:
    """Which of the images a command takes."""

    classes: str = ""
    """Only images of these classes (sub-folders): imagenet100, or a text file with a name on each line."""


def _pretrain(arguments: list[str]) -> None:
    """Learn an encoder from images, and leave a run folder."""
    from smalti.training.fit import Engine
    from smalti.training.recipe import Recipe

    @dataclass(kw_only=True)
    class Pretrain(RecipeChoice, ClassChoice):
        data: Positional[str]
        """A folder of images, nested or not, or a data set's name (photos, cifar10, imagenette, stl10, ...)."""
        out: Path
        """The run folder to write."""
        resume: bool = False
        """Continue the run in --out, or begin it if there is none."""
        engine: Annotated[Engine, arg(name="")] = field(default_factory=Engine)
        settings: Annotated[Recipe, arg(name="")] = tyro.MISSING

    from smalti.api import pretrain

    given = _parse(Pretrain, arguments, "pretrain", settings=_recipe_of(arguments))
    encoder = pretrain(
        given.data, given.out, given.settings, classes=given.classes, engine=given.engine, resume=given.resume
    )
    trained = f"{encoder.info.backbone.name} trained by {encoder.info.recipe}"
    print(printable(f"{trained}: {given.out / 'encoder.safetensors'}"))


def _views(arguments: list[str]) -> None:
    """Draw what the network will see."""
    from smalti.training.recipe import Recipe

    @dataclass(kw_only=True)
    class Views(RecipeChoice, ClassChoice):
        data: Positional[str]
        """A folder of images, or a data set's name."""
        out: Path
        """The PNG to write."""
        step: int = 0
        """Which batch of the run."""
        settings: Annotated[Recipe, arg(name="")] = tyro.MISSING

    from smalti.api import plot
    from smalti.images.catalog import open_source

    given = _parse(Views, arguments, "views", settings=_recipe_of(arguments))
    _check_folder_of(given.out)
    source = open_source(given.data, "train", given.settings.backbone.in_channels, given.classes)
    plot(source, given.settings, given.out, step=given.step)
    print(printable(f"views of {given.settings.name}: {given.out}"))


def _evaluate(arguments: list[str]) -> None:
    """Score an encoder: smalti evaluate knn|linear ENCODER --train DATA --test DATA."""

    @dataclass
    class Evaluate(ClassChoice):
        probe: Positional[Literal["knn", "linear"]]
        """What to score with."""
        encoder: Positional[str]
        """A run folder, an encoder file, a checkpoint, timm:NAME or random:NAME."""
        train: str
        """Labeled images, a folder or a name; with sub-folders train and val or test, its train part."""
        test: str = ""
        """Labeled images to score on; the test part of --train unless given."""
        image_size: int = 0
        """Side at which the encoder sees them, pixels; 0 for the one it was trained at."""
        backbone: str = ""
        """The network, where the file does not say: timm's name for it, or the recipe file that brings its own."""
        workers: int = 0
        """Processes that load images."""
        seed: int = 0
        """Of the linear probe."""
        json: Path | None = None
        """Write the scores here too."""

    from smalti.api import evaluate_knn, evaluate_linear

    given = _parse(Evaluate, arguments, "evaluate")
    encoder = _load(given.encoder, given.backbone)
    options = {"image_size": given.image_size or None, "workers": given.workers, "device": _device(), "progress": True}
    train, test = _feature_sets(encoder, given.train, given.test, given.classes, options)
    scores = evaluate_knn(train, test) if given.probe == "knn" else evaluate_linear(train, test, given.seed)
    described = {"encoder": given.encoder, "train": given.train, "test": given.test, "classes": given.classes}
    _write_json(given.json, described | scores)
    print("  ".join(f"{name} {score:.4f}" for name, score in scores.items()))


def _embed(arguments: list[str]) -> None:
    """Write the features, labels and names of images to an .npz file."""

    @dataclass
    class Embed(ClassChoice):
        encoder: Positional[str]
        """A run folder, an encoder file, a checkpoint, timm:NAME or random:NAME."""
        data: Positional[str]
        """A folder of images, or a data set's name."""
        out: Path
        """The .npz file to write: arrays features, labels, names, class_names, skipped."""
        split: Literal["train", "test"] = "train"
        """Which part, where the data have parts."""
        image_size: int = 0
        """Side at which the encoder sees them, pixels; 0 for the one it was trained at."""
        backbone: str = ""
        """The network, where the file does not say: timm's name for it, or the recipe file that brings its own."""
        workers: int = 0
        """Processes that load images."""

    from smalti.api import embed

    given = _parse(Embed, arguments, "embed")
    _check_folder_of(given.out)
    features = embed(
        _load(given.encoder, given.backbone),
        given.data,
        given.split,
        given.classes,
        image_size=given.image_size or None,
        workers=given.workers,
        device=_device(),
        progress=True,
    )
    features.save(given.out)
    _tell_skipped(features.skipped)
    print(printable(f"{len(features)} images, {features.features.shape[1]} features each: {given.out}"))


def _export(arguments: list[str]) -> None:
    """Hand the backbone on, its outputs compared before and after."""

    @dataclass
    class Export:
        encoder: Positional[str]
        """A run folder, an encoder file, a checkpoint, timm:NAME or random:NAME."""
        to: Literal["timm", "torchvision"]
        """Whose names the weights are to have."""
        out: Path
        """The file to write; how to load it is written beside it."""
        backbone: str = ""
        """The network, where the file does not say: timm's name for it, or the recipe file that brings its own."""

    from smalti.export.formats import FORMATS

    given = _parse(Export, arguments, "export")
    report = FORMATS[given.to](_load(given.encoder, given.backbone), given.out)
    print(report.snippet)
    print(f"{printable(report.path)}: outputs differ by at most {report.max_abs_difference:.1e}")


def _recipes(arguments: list[str]) -> None:
    """List every recipe with its source and published figure."""

    @dataclass
    class Recipes:
        json: Path | None = None
        """Write them, with every field, here."""

    from smalti.recipes import all_recipes

    given = _parse(Recipes, arguments, "recipes")
    recipes = [make() for make in all_recipes().values()]
    width = max(len(recipe.name) for recipe in recipes)
    for recipe in recipes:
        print(f"{recipe.name:<{width}} {recipe.source}" + (f"; {recipe.published}" if recipe.published else ""))
    _write_json(given.json, [json.loads(recipe.to_json()) for recipe in recipes])
    print(f"{len(recipes)} recipes")


def _demo(arguments: list[str]) -> None:
    """Pre-train on photographs that come with smalti's dependencies, and score it (about three minutes)."""

    @dataclass
    class Demo:
        out: Path = Path("runs/demo")
        """The run folder to write; one that is there is replaced."""

    from smalti.demo import run_demo

    given = _parse(Demo, arguments, "demo")
    scores = run_demo(given.out)
    print(
        f"kNN accuracy on {scores['classes']:.0f} classes: raw pixels {scores['knn_pixels']:.3f}, random weights "
        f"{scores['knn_random']:.3f}, trained {scores['knn_trained']:.3f}, in {scores['seconds']:.0f} s"
    )


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": _pretrain,
    "views": _views,
    "evaluate": _evaluate,
    "embed": _embed,
    "export": _export,
    "recipes": _recipes,
    "demo": _demo,
}


def _parse(command: type, arguments: list[str], name: str, **known: Any) -> Any:
    """The command's dataclass, filled in; anything wrong with the arguments becomes one line."""
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_json_rule)
    start = {f.name: known.get(f.name, tyro.MISSING) for f in fields(command) if f.name in known or _is_required(f)}
    complaint = StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(
                command,
                prog=f"smalti {name}",
                args=arguments,
                default=command(**start),
                config=(tyro.conf.AvoidSubcommands,),
                registry=registry,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise _one_line(complaint.getvalue(), name) from None


def _is_required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _json_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Fields that hold a dictionary are given as JSON."""
    if get_origin(info.type) is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: _json_object(texts[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f'{text} is not a JSON object, such as {{"patch_size": 8}}')
    return value


def _one_line(complaint: str, name: str) -> UserError:
    """The parser's framed message as got, expected, do this."""
    lines = [line.strip("│╭╮╰╯─ ") for line in complaint.splitlines()]
    lines = [line for line in lines if line.strip("-") and not line.startswith(("For full helptext", "smalti "))]
    text = re.sub(r"\s+", " ", " ".join(lines[1:]) or " ".join(lines))
    inner = re.search(r"got (.*?); expected (.*?); (.*)", text)
    if inner:  # one of our own errors, raised while a component was built
        return UserError(*inner.groups())
    got, _, rest = text.partition("Perhaps you meant:")
    got = got.partition("Argument helptext")[0].strip(" :;").replace("Unrecognized options: ", "unknown option ")
    close = re.findall(r"--[\w.-]+", rest)
    do = f"did you mean {close[0]}?" if close else f"run smalti {name} --help"
    return UserError(got, "options of this command", do)


def _recipe_of(arguments: list[str]) -> "Recipe | Any":
    """The recipe that the arguments choose, see `RecipeChoice`: its fields are the defaults of further options."""
    from smalti.recipes import get_recipe

    recipe = get_recipe(_value_of("--recipe", arguments) or _DEFAULT_RECIPE)
    other = _value_of("--views-of", arguments)
    if other:
        recipe = replace(recipe, name=f"{recipe.name}, views of {other}", views=get_recipe(other).views, published="")
    size = _value_of("--size", arguments) or "0"
    if not size.isdigit():
        raise UserError(f"--size {size}", "a number of pixels", "use e.g. --size 64")
    return recipe.resized(int(size)) if int(size) else recipe


def _value_of(option: str, arguments: list[str]) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def _load(encoder: str, backbone: str) -> "Encoder":
    from smalti.models.checkpoints import load_encoder
    from smalti.models.timm_backbone import TimmBackbone
    from smalti.recipes import get_recipe

    if not backbone:
        return load_encoder(encoder)
    is_file = backbone.endswith(".py")
    return load_encoder(encoder, backbone=get_recipe(backbone).backbone if is_file else TimmBackbone(name=backbone))


def _feature_sets(encoder: "Encoder", train: str, test: str, classes: str, options: dict[str, Any]) -> tuple[Any, Any]:
    from smalti.api import embed
    from smalti.images.catalog import has_split, open_source
    from smalti.images.named import Split

    if not test and not has_split(train):
        raise UserError(f"--train {train} alone, which has no test part", "a --test set too", "give --test FOLDER")
    tested: Split = "test" if not test or has_split(test) else "train"
    parts: list[tuple[str, str, Split]] = [("--train", train, "train"), ("--test", test or train, tested)]
    for option, data, part in parts:  # before hours of embedding
        if open_source(data, part, encoder.info.backbone.in_channels, classes).labels is None:
            raise UserError(f"{option} {data}, images without labels", "one sub-folder a class", "sort them into some")
    train_features, test_features = (embed(encoder, data, part, classes, **options) for _, data, part in parts)
    _tell_skipped((*train_features.skipped, *test_features.skipped))
    return train_features, test_features


def _tell_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped[:5]:
        print(printable(f"skipped {name}: {reason}"), file=sys.stderr)
    if len(skipped) > 5:
        print(f"skipped {len(skipped) - 5} more", file=sys.stderr)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_folder_of(path: Path) -> None:
    if not path.parent.is_dir():
        raise UserError(f"{path}, whose folder does not exist", "a file in a folder that does", "make the folder")


def _write_json(path: Path | None, content: Any) -> None:
    if path is not None:
        _check_folder_of(path)
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
