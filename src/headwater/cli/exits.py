"""Exit codes, and errors as two lines on standard error. `docs/cli.md` documents the codes."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from headwater.errors import HeadwaterError, StoreError, StoreLocked, UnknownResource

OK, FAILED, USAGE, STORE_FAILED, NOT_FOUND, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 4, 130, 141
CODES: dict[int, str] = {
    OK: "done",
    FAILED: "failed or refused; nothing was changed by the failed operation",
    USAGE: "the command line is wrong: unknown command or option, a value that is no JSON",
    STORE_FAILED: "the store failed: damaged, of a newer format, disk full, outcome unknown",
    NOT_FOUND: "not found: no store, or no resource, row, message or event of this name",
    INTERRUPTED: "interrupted by Ctrl-C or a second signal",
    PIPE_CLOSED: "the reader of standard output went away",
}


class UsageError(Exception):
    """The command line is wrong."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def code_of(error: HeadwaterError) -> int:
    match error:
        case UnknownResource():
            return NOT_FOUND
        case StoreLocked():
            return FAILED
        case StoreError():
            return STORE_FAILED
        case _:
            return FAILED


def report(message: str, hint: str = "") -> None:
    """Print `error: what` and `hint: how to mend it` on standard error."""
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def report_error(error: HeadwaterError) -> int:
    """Report an error of ours; its exit code."""
    where = " ".join(part for part in (error.operation, error.resource) if part)
    report(f"{where}: {error.message}" if where else error.message, error.hint)
    return code_of(error)


def end_after_broken_pipe() -> NoReturn:
    """Nobody reads what is left: keep the interpreter from complaining when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(PIPE_CLOSED)
