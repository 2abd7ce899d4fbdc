"""Some classes of a data set: ImageNet-100 out of a folder of ImageNet-1K, or those that a text file lists."""

from collections import Counter
from pathlib import Path

import numpy as np

from smalti.errors import UserError
from smalti.images.source import ImageSource, Subset

# The list in the appendix of image mixture (arXiv:2003.05438), which is that of CMC.
IMAGENET_100 = "imagenet100"


def only_classes(source: ImageSource, classes: str | Path) -> Subset:
    """The images of some classes, labeled as if the other classes were not there.

    Args:
        source: labeled images; where they are a folder, its sub-folders' names are the classes.
        classes: "imagenet100", or a text file, see `read_classes`.

    Raises:
        UserError: the images have no labels, or lack one of the classes; see also `read_classes`.
    """
    names = read_classes(classes)
    if source.labels is None:
        raise UserError(f"{source.name}, images without labels", "one sub-folder a class", "leave out --classes")
    missing = sorted(set(names) - set(source.class_names))
    if missing:
        raise UserError(
            f"{source.name}, which lacks {len(missing)} of the {len(names)} classes of {classes} "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})",
            "images of all of them",
            "check the path and the names, which are those of the sub-folders",
        )
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of.get(name, -1) for name in source.class_names])[source.labels]
    subset = Subset(source, np.flatnonzero(labels >= 0))
    subset.name = f"{source.name} ({classes})"
    subset.labels, subset.class_names = labels[labels >= 0], names
    return subset


def read_classes(classes: str | Path) -> tuple[str, ...]:
    """Names of classes, sorted.

    Args:
        classes: "imagenet100", or a text file with a name on each line; empty lines, and those that begin with #, say
            nothing.

    Raises:
        UserError: there is no such file, it is no text, names no class, or names one twice.
    """
    path = Path(__file__).with_name(f"{IMAGENET_100}.txt") if classes == IMAGENET_100 else Path(classes)
    expected = f"{IMAGENET_100}, or a text file with the name of a class on each line"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"classes {classes} ({reason})", expected, "check --classes") from error
    names = Counter(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise UserError(f"classes {classes}, which names none", expected, "write the names into it")
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"classes {classes}, which names {twice[0]} twice", "each class once", "remove one of the two")
    return tuple(sorted(names))
