"""What is different between two documents: pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

MOST = 200


class Difference(NamedTuple):
    """One place of a document that was added, removed or changed; `path` as in `lines[2].price`."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Any
    after: Any


def differences(old: Any, new: Any) -> list[Difference]:
    """The differences in the order of the new document, at most `MOST`; of lists by position."""
    found = []
    for difference in _between("", old, new):
        found.append(difference)
        if len(found) == MOST:
            break
    return found


def _between(path: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**new, **old}:
            place = f"{path}.{name}" if path else str(name)
            yield from _member(place, old, new, name)
    elif isinstance(old, list) and isinstance(new, list):
        before, after = dict(enumerate(old)), dict(enumerate(new))
        for number in range(max(len(old), len(new))):
            yield from _member(f"{path}[{number}]", before, after, number)
    elif type(old) is not type(new) or old != new:
        yield Difference(path, "changed", old, new)


def _member(path: str, old: dict[Any, Any], new: dict[Any, Any], name: Any) -> Iterator[Difference]:
    if name not in old:
        yield Difference(path, "added", None, new[name])
    elif name not in new:
        yield Difference(path, "removed", old[name], None)
    else:
        yield from _between(path, old[name], new[name])
