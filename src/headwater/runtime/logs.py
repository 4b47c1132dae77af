"""Logs: lines on standard error, coloured on a terminal, JSON objects with `HEADWATER_LOG=json`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from headwater.runtime.log_lines import keep_line

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
TOLD = ("app", "method", "path", "trace")
"""What lines of the standard library may say by `extra=`, beside their message."""
_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # credentials are among them
)


def configure_logs(
    stream: TextIO | None = None, environ: Mapping[str, str] | None = None, *, lowest: str = "info"
) -> None:
    """Send structlog's lines and those of the standard library (from warnings on) to the stream.

    `HEADWATER_LOG=json` writes an object a line, `HEADWATER_LOG_LEVEL` is the lowest level shown, else `lowest`. What
    is written in a handler or a request says so (`add_work`).
    """
    target = sys.stderr if stream is None else stream
    variables = os.environ if environ is None else environ
    level = LEVELS.get(variables.get("HEADWATER_LOG_LEVEL", "").lower(), LEVELS[lowest])
    as_json = variables.get("HEADWATER_LOG") == "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_work,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        keep_line,
    ]
    last = _last(target, variables, as_json=as_json)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(TOLD)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def add_work(logger: Any, method: str, line: EventDict) -> EventDict:
    """Add what runs: the message, trace and span of the unit of work, and the request.

    Read when a line is written: what logs nothing pays nothing. App, handler and queue are in the context of the slot
    that runs the handler.
    """
    from headwater.work import current, current_request

    request, unit = current_request.get(), current.get()
    if request is not None:
        for name, value in request.facts.items():
            line.setdefault(name, value)
    if unit is not None:
        alone = unit.deliveries[0].message_id if len(unit.deliveries) == 1 else ""
        if message := unit.handling or alone:
            line.setdefault("message", message)
        line.setdefault("trace", unit.trace)
        line.setdefault("span", unit.span)
    return line


def _last(target: TextIO, variables: Mapping[str, str], *, as_json: bool) -> list[Any]:
    if as_json:
        return [_tracebacks, structlog.processors.JSONRenderer()]
    colors = target.isatty() and not variables.get("NO_COLOR")
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback, pad_level=False
        )
    ]
