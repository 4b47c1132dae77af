"""The PostgreSQL engine against the oracle: leases are durable, and what a dead process held is handed out alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from headwater.engine import Waiting
from headwater.engines.postgres import staging as slices
from headwater.engines.postgres.beats import LIFE_MS
from tests.conformance.crash import crash
from tests.model.oracle import Message
from tests.model.test_model import StoreMachine
from tests.postgres.server import run_sql


@pytest.fixture(autouse=True, scope="module")
def server(postgres: str) -> Iterator[None]:
    """Also, a load can be half in place."""
    PostgresMachine.dsn = postgres
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_ROWS", 1)
        yield


class PostgresMachine(StoreMachine):
    dsn = ""

    def __init__(self) -> None:
        self.schema = f"model_{secrets.token_hex(6)}"
        super().__init__()

    def url(self) -> str:
        return f"{self.dsn}?schema={self.schema}"

    def teardown(self) -> None:
        super().teardown()
        run_sql(self.dsn, f"DROP SCHEMA {self.schema} CASCADE")

    def possible(self, queue: str) -> list[Message]:
        """A suspect comes first and alone; while one is held, there is nothing else."""
        if any(message.suspect for _, message in self.leases):
            return []
        receivable = self.oracle.receivable(queue)
        suspects = [message for message in receivable if message.suspect]
        return suspects[:1] or receivable

    def retry(self, at: int, delay_ms: int) -> None:
        message = self.leases[at % len(self.leases)][1]
        super().retry(at, delay_ms)
        message.suspect = False

    @rule(how=st.sampled_from(["close", "die"]))
    def reopen(self, how: str) -> None:
        self.abandon()
        held = [message for _, message in self.leases]
        self.lost += [delivery for delivery, _ in self.leases]
        self.leases = []
        if how == "close":
            self.run(self.store.reopen())
            for message in held:
                self.oracle.give_back(message, counted=False)
        else:
            self.run(crash(self.store))
            for message in held:
                self.oracle.give_back(message, counted=True)
                message.suspect = True
            self.oracle.advance(LIFE_MS)
        for message in held:
            message.begun = False

    def waiting_agree(self, expected: list[Message], waiting: list[Waiting]) -> None:
        """A message that comes back is ready from then on; its receive was counted when it was leased."""
        now_ms = self.oracle.now_ms
        found = [(x.event.id, x.receives, max(x.ready_ms, now_ms), x.group) for x in waiting]
        assert found == [(x.id, x.attempts, max(x.ready_ms, now_ms), x.group) for x in expected]


PostgresMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("HEADWATER_MODEL_EXAMPLES", "15")),
    stateful_step_count=40,
    derandomize=os.environ.get("CI") == "true",
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestPostgres = PostgresMachine.TestCase
