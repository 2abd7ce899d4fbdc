"""Text from elsewhere (names of files, classes and fields) made fit for a terminal, a log and one line."""

import unicodedata

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, invisible formats, lone surrogates, line separators


def printable(text: object) -> str:
    """The text with whatever a terminal would act on, or could not show, as a Python escape.

    Example:
        >>> print(printable("a\\x1b[31m\\nb"))
        a\\x1b[31m\\nb
    """
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in _ESCAPED else character for character in str(text)
    )
