"""Python files of the user's: recipes and teachers."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from smalti.errors import UserError


def load_file(path: str | Path, what: str) -> ModuleType:
    """Run a Python file as a module that is found under the file's own name.

    Args:
        path: of the file.
        what: the file is to hold, for errors: "recipe", "teacher".

    Raises:
        UserError: no such file, or an error in it.
    """
    path = Path(path)
    name = f"smalti_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{what} file {path}, which does not exist or is no Python file", "one", "check the path")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle, which workers are sent by, looks for its classes
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise _failed(path, error, f"a file that runs and defines a {what}") from error
    return module


def call_in_file(path: str | Path, function: str, what: str) -> Any:
    """What a function without arguments in a Python file returns.

    Args:
        path: of the file.
        function: its name.
        what: the file is to hold, for errors: "recipe", "teacher".

    Raises:
        UserError: no such file or function, or an error in it.
    """
    module = load_file(path, what)
    try:
        return getattr(module, function)()
    except UserError:
        raise
    except Exception as error:
        raise _failed(Path(path), error, f"def {function}() that returns a {what}") from error


def _failed(path: Path, error: Exception, expected: str) -> UserError:
    return UserError(f"{type(error).__name__} in {path}: {error}", expected, "correct the file")
