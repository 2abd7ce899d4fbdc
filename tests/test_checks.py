"""Settings that cannot be are refused with their name, their value and one that can."""

from dataclasses import dataclass

import pytest

from smalti.checks import require_count, require_fraction, require_not_negative, require_positive
from smalti.errors import UserError


@dataclass(frozen=True)
class Settings:
    number: float = 0.3


@pytest.mark.parametrize(
    ("require", "right", "wrong"),
    [
        (require_fraction, (0, 0.5, 1), (-0.1, 1.1, float("nan"))),
        (require_positive, (0.1, 7), (0, -1)),
        (require_not_negative, (0, 7), (-1,)),
        (require_count, (1, 7), (0,)),
    ],
)
def test_what_is_right_and_what_is_not(require, right, wrong) -> None:
    for value in right:
        require(Settings(value), "number")
    for value in wrong:
        with pytest.raises(UserError, match=rf"got number {value}; .*; use e.g. 0.3"):
            require(Settings(value), "number")


def test_a_count_may_have_to_be_larger() -> None:
    require_count(Settings(2), "number", least=2)
    with pytest.raises(UserError, match="expected 2 or more"):
        require_count(Settings(1), "number", least=2)
