"""Python files of the user's: recipes and teachers."""

import importlib.util
from pathlib import Path
from typing import Any

from smalti.errors import UserError


def call_in_file(path: str | Path, function: str, what: str) -> Any:
    """What a function without arguments in a Python file returns.

    Args:
        path: of the file.
        function: its name.
        what: the file is to hold, for errors: "recipe", "teacher".

    Raises:
        UserError: no such file or function, or an error in it.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location(f"smalti_user_{what}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{what} file {path}, which does not exist or is no Python file", "one", "check the path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{type(error).__name__} in {path}: {error}", f"def {function}() that returns a {what}", "mend the file"
        ) from error
