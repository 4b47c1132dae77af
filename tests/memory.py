"""The temporary folders of tests are in memory, where there is room: tests flush more than they write.

A disk that others use keeps a flush waiting for seconds. Setting TMPDIR decides otherwise.
"""

from __future__ import annotations

import os
import tempfile

from tests.postgres.guard import roomy_folder


def pytest_configure() -> None:
    if "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = str(roomy_folder())
        tempfile.tempdir = None
