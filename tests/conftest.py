"""Programs that tests need beyond what is locked: `@pytest.mark.needs("node", package="nodejs")`.

Without any of the programs a test is skipped, and the report says how to get it; in CI (`CI=true`) it fails.
"""

from __future__ import annotations

import os
import shutil

import httpx
import pytest

from tests.patience import PATIENCE_S


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs, package): skipped without one of them, failed in CI")
    limits = httpx._config.DEFAULT_TIMEOUT_CONFIG  # five seconds, which a busy machine may take
    limits.connect = limits.read = limits.write = limits.pool = PATIENCE_S
    config.addinivalue_line("markers", "feature(name, reason): holds on engines whose Features have it")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        if not any(shutil.which(program) for program in mark.args):
            missing = f"{mark.args[0]} is not installed: `apt-get install {mark.kwargs['package']}`"
            if os.environ.get("CI") == "true":
                pytest.fail(missing, pytrace=False)
            pytest.skip(missing)
