"""The errors a user can put right, and the one way to word them: what was got, what was expected, what to do."""

from smalti.text import printable


class UserError(ValueError):
    """Something the user can put right; the command line prints its one line and exits with code 2.

    Args:
        got: what was found, with the offending value.
        expected: what would have been right.
        do: the next step for the user, as an imperative.

    Example:
        >>> raise UserError("a batch of 3 images", "4 or more", "use --batch-size 4")
        Traceback (most recent call last):
            ...
        smalti.errors.UserError: got a batch of 3 images; expected 4 or more; use --batch-size 4
    """

    def __init__(self, got: str, expected: str, do: str) -> None:
        self._parts = (got, expected, do)
        super().__init__(printable(f"got {got}; expected {expected}; {do}"))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        return type(self), self._parts  # as it travels from a loader's worker


class BadImageError(Exception):
    """One image file that cannot be used; the text is the reason written to `skipped.txt`."""
