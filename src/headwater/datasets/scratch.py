"""A temporary folder (`TMPDIR`) for rows that are too many for memory."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.errors import StoreFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Removed at the end. No room inside is `StoreFull`: a handler waits for it, as for room in the store."""
    with tempfile.TemporaryDirectory(prefix="headwater-rows-") as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if not _is_full(error):
                raise
            raise StoreFull(
                "there is no room for the rows of a file",
                operation="read rows",
                resource=str(Path(folder).parent),
                hint="make room there, or name another folder by TMPDIR",
            ) from error


def _is_full(error: OSError) -> bool:
    """Polars tells the system's number in its message only."""
    return any(error.errno == number or f"(os error {number})" in str(error) for number in _NO_ROOM)
