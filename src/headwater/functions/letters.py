"""The function behind the dead-letter queues of SQS: what lands there becomes dead letters that people can list.

A message lands there when its function ended again and again without a word: it was killed, or never began. SQS says
which queue it comes from only by the name of the dead-letter queue.
"""

from __future__ import annotations

from typing import Any

import structlog

from headwater.aws.names import Names
from headwater.engine import AlreadyDone
from headwater.errors import HeadwaterError
from headwater.functions.arrivals import Adopting, as_received
from headwater.functions.decoding import SqsMessage, failed_items, read_sqs
from headwater.functions.home import Home
from headwater.functions.invocation import Invocation, entry_point, tell_metrics
from headwater.ids import new_id
from headwater.runtime.attempts import settle
from headwater.unit import Commit

REASON = "SQS handed it out as often as it may, without an end that was told"
log = structlog.get_logger("headwater.functions")


async def bury(home: Home, event: Any, invocation: Invocation) -> dict[str, Any]:
    """Make dead letters of the messages of a dead-letter queue."""
    failed = [message.id for message in read_sqs(event) if not await _bury(home, message)]
    return failed_items(failed)


async def _bury(home: Home, message: SqsMessage) -> bool:
    queue = _queue_of(home, message.queue)
    if queue is None:
        log.error("no queue of the apps has this dead-letter queue", name=message.queue)
        return False
    engine: Adopting = home.engine  # type: ignore[assignment]
    taken = await engine.adopt(queue, [as_received(message)])
    if not taken:
        return False
    delivery = taken[0]
    try:
        await home.engine.commit(Commit(id=new_id(), settles=[settle(delivery, "bury", REASON)]))
    except AlreadyDone:
        return True
    except HeadwaterError as error:
        log.error("a dead letter could not be kept", queue=queue, error=str(error))
        return False
    log.error("a message is a dead letter", queue=queue, message=delivery.message_id, trace=delivery.event.trace)
    tell_metrics(home, {"Queue": queue}, {"dead_letters": 1}, [])
    return True


def _queue_of(home: Home, name: str) -> str | None:
    """The queue whose dead-letter queue has this name in SQS."""
    names = Names(home.config.store.partition(":")[2])
    for queue, spec in home.catalog.queues.items():
        if names.dead_queue(queue, fifo=spec.fifo) == name:
            return queue
    return None


handle = entry_point(bury)
