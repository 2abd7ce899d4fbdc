"""What settings have to be, asked of frozen dataclasses where they are made."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from smalti.errors import UserError


def require_fraction(settings: Any, *names: str) -> None:
    """Raise UserError unless each of these fields is in [0, 1]."""
    _require(settings, names, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def require_positive(settings: Any, *names: str) -> None:
    """Raise UserError unless each of these fields is above 0."""
    _require(settings, names, "a number above 0", lambda value: value > 0)


def require_not_negative(settings: Any, *names: str) -> None:
    """Raise UserError unless each of these fields is 0 or more."""
    _require(settings, names, "0 or more", lambda value: value >= 0)


def require_count(settings: Any, *names: str, least: int = 1) -> None:
    """Raise UserError unless each of these fields is `least` or more, and below 2^31."""
    _require(settings, names, f"{least} or more, and below 2^31", lambda value: least <= value < 2**31)


def _require(settings: Any, names: tuple[str, ...], expected: str, is_right: Callable[[Any], bool]) -> None:
    defaults = {field.name: field.default for field in fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if not is_right(value):
            raise UserError(f"{name} {value}", expected, f"use e.g. {defaults[name]}")
