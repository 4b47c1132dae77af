"""Texts of models, with names in them that only the account knows.

`${region}`, `${account}`, `${partition}` and `${suffix}` stand for those of the deployment, `${param.Name}` for a
parameter's value, `${Id.arn}` for an attribute of the model with this id. `${!…}` is a literal `${…}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PSEUDO = frozenset({"region", "account", "partition", "suffix"})
_TOKEN = re.compile(r"\$\{(!?)([^}]*)\}")


class Token(NamedTuple):
    """`owner` is a model's id, "param", or "" for a pseudo name; `name` its attribute."""

    owner: str
    name: str


def parse(text: str) -> Iterator[str | Token]:
    """The pieces of a text: literals, and tokens. Raises `ValueError` for a token that is none."""
    at = 0
    for found in _TOKEN.finditer(text):
        if found.start() > at:
            yield text[at : found.start()]
        at = found.end()
        if found[1]:
            yield "${" + found[2] + "}"
            continue
        owner, dot, name = found[2].partition(".")
        if not dot and owner not in PSEUDO:
            raise ValueError(f"${{{found[2]}}} stands for nothing")
        yield Token(owner, name) if dot else Token("", owner)
    if at < len(text):
        yield text[at:]


def literal(text: str) -> str:
    """A text from outside, which stands for itself."""
    return _TOKEN.sub(lambda found: "${!" + found[0][2:], text)


def longest(text: str) -> str:
    """The text with as much in place of each token as there may be, for judging sizes."""
    room = {"region": "ap-northeast-1", "account": "0" * 12, "partition": "aws-us-gov", "suffix": "amazonaws.com.cn"}
    return "".join(
        piece if isinstance(piece, str) else room.get(piece.name, "x" * 160) if not piece.owner else "x" * 160
        for piece in parse(text)
    )
