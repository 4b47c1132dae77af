"""The admin API's operations, on an engine: one implementation for the server's socket and for the CLI without one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Any

from headwater.errors import UnknownResource
from headwater.runtime.admin_alarms import AlarmOperations
from headwater.runtime.admin_apis import ApiOperations
from headwater.runtime.admin_audit import AuditOperations
from headwater.runtime.admin_base import About
from headwater.runtime.admin_clock import ClockOperations
from headwater.runtime.admin_erasures import ErasureOperations
from headwater.runtime.admin_history import HistoryOperations
from headwater.runtime.admin_keys import KeyOperations
from headwater.runtime.admin_letters import LetterOperations
from headwater.runtime.admin_mail import MailOperations
from headwater.runtime.admin_objects import ObjectOperations
from headwater.runtime.admin_queues import QueueOperations
from headwater.runtime.admin_resources import ResourceOperations
from headwater.runtime.admin_scaling import ScalingOperations
from headwater.runtime.admin_schedules import ScheduleOperations
from headwater.runtime.admin_sql import SqlOperations
from headwater.runtime.admin_tables import TableOperations
from headwater.runtime.admin_topology import TopologyOperations
from headwater.runtime.admin_traces import TraceOperations
from headwater.runtime.admin_tracked import TrackedOperations
from headwater.runtime.admin_why import WhyOperations
from headwater.runtime.audit import AuditLog
from headwater.runtime.operations import Operation, operations_of

__all__ = ["About", "Admin"]


class Admin(
    ResourceOperations,
    TopologyOperations,
    QueueOperations,
    LetterOperations,
    ErasureOperations,
    SqlOperations,
    TableOperations,
    HistoryOperations,
    KeyOperations,
    ObjectOperations,
    ScheduleOperations,
    ScalingOperations,
    MailOperations,
    TrackedOperations,
    AlarmOperations,
    ApiOperations,
    AuditOperations,
    ClockOperations,
    WhyOperations,
    TraceOperations,
):
    """Every operation, called by name (`call`) with JSON parameters, or directly as a method.

    Answers are JSON types. Raises what the engine raises, `UnknownResource` for names and ids that nothing has, and
    `InvalidValue` for parameters that are wrong.
    """

    @cached_property
    def _operations(self) -> dict[str, Operation]:
        return operations_of(self)

    def describe(self) -> list[dict[str, Any]]:
        """The operations with their parameters and documentation."""
        return [operation.described() for operation in self._operations.values()]

    def writes(self, operation: str) -> bool:
        """Whether the operation needs the store's owner."""
        return self._find(operation).writes

    async def call(self, operation: str, parameters: Mapping[str, Any], by: str = "") -> Any:
        """`by` is who asks: what writes is in the audit under this name."""
        found = self._find(operation)
        given = found.read(parameters)
        if not found.writes:
            return await found.run(**given)
        async with AuditLog(self.system).record(operation, given, by) as told:
            answer = await found.run(**given)
            told(answer)
        return answer

    async def put_object(
        self, parameters: Mapping[str, Any], data: AsyncIterator[bytes], by: str = ""
    ) -> dict[str, Any]:
        async with AuditLog(self.system).record("put-object", parameters, by) as told:
            answer = await super().put_object(parameters, data)
            told(answer)
        return answer

    def _find(self, operation: str) -> Operation:
        found = self._operations.get(operation)
        if found is None:
            raise UnknownResource(
                "there is no such operation",
                operation=operation,
                hint=f"there are {', '.join(sorted(self._operations))}",
            )
        return found
