"""The last lines of the log that units of work have written, for their traces. In memory: a restart forgets them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

KEPT = 5_000
MAX_LINE = 2_000
_SHOWN = ("timestamp", "level", "event")
_HIDDEN = ("trace", "exc_info", "_record", "_from_structlog", "stack_info")
_lines: deque[dict[str, Any]] = deque(maxlen=KEPT)


def keep_line(logger: Any, method: str, line: Any) -> Any:
    """A structlog processor, after `add_work`: keeps the line if it belongs to a trace."""
    if "trace" in line:
        facts = {name: str(value)[:MAX_LINE] for name, value in line.items() if name not in (*_SHOWN, *_HIDDEN)}
        shown = {name: str(line.get(name, ""))[:MAX_LINE] for name in _SHOWN}
        _lines.append({"trace": line["trace"], **shown, "facts": facts})
    return line


def lines_of(trace: str) -> list[Mapping[str, Any]]:
    """What was logged in a trace, oldest first."""
    return [{name: line[name] for name in (*_SHOWN, "facts")} for line in list(_lines) if line["trace"] == trace]
