"""What is wrong with the arguments of a command line, in our own words where cyclopts' wording is too technical."""

from __future__ import annotations

import difflib
import re

from cyclopts import CoercionError, CycloptsError, UnusedCliTokensError
from cyclopts.exceptions import MissingArgumentError, UnknownCommandError, UnknownOptionError

from trio_cancel._cli._failure import clean, short

_SHOWN = 3
_USER = re.compile(r"(?<=:)//[^/?#]*@")
"""A user and a password in a url; these are not shown."""


def usage_text(error: CycloptsError) -> str:
    """Return what is wrong, as a sentence."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        tokens = [f'"{short(clean(_USER.sub("//", token)), 60)}"' for token in error.unused_tokens]
        more = f" and {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
        return f"Unexpected argument{'s' * (len(tokens) > 1)}: {', '.join(tokens[:_SHOWN])}{more}."
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        return f"{name} needs a value." if name.startswith("-") else f"{name} is missing."
    if isinstance(error, CoercionError) and error.token is not None and error.token.keyword is not None:
        kinds: dict[object, str] = {float: "a number", int: "a whole number", bool: "no value"}
        kinds[int | None] = "a whole number"
        wanted = kinds.get(error.target_type)
        if wanted is not None:
            return f'{error.token.keyword} takes {wanted}, not "{short(clean(error.token.value), 60)}".'
    text = short(clean(str(error)), 500)
    if isinstance(error, UnknownCommandError):
        return text.partition(" Available commands:")[0]  # a list that ends in "..."; the help has all of it
    if isinstance(error, UnknownOptionError):
        unknown, asks, meant = text.partition(" Did you mean --")
        return text if not asks or _is_like(error, meant.rstrip("?")) else unknown
    return text


def _is_like(error: UnknownOptionError, option: str) -> bool:
    """Return True if this option may have been meant; cyclopts also counts the dashes, which all options share."""
    word = (error.token.keyword or error.token.value).lstrip("-").partition("=")[0]
    return bool(difflib.get_close_matches(word, [option]))
