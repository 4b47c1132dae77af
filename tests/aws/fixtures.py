"""The AWS that tests use: one ministack for each process of the test run. A test has a stack of its own there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from tests.aws.ministack import MISSING, Ministack, is_installed
from tests.postgres.fixtures import lacking


@pytest.fixture(scope="session")
def ministack() -> Iterator[Ministack]:
    """The process that the tests share."""
    if not is_installed():
        lacking(MISSING)
    with Ministack() as running:
        yield running


@pytest.fixture
def aws(ministack: Ministack) -> Iterator[Ministack]:
    """The shared process, to which this process's environment points while the test runs."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with patch.dict(os.environ, {**plain, **ministack.environment}, clear=True):
        yield ministack


@pytest.fixture
def stack() -> str:
    """The name of a stack that nobody else has."""
    return f"t{secrets.token_hex(5)}"
