"""Readings: accepted into a queue, persisted in batches, served to the user who sent them and to nobody else.

The queue takes any text: a device whose firmware writes a broken one cannot mend it, so refusing it would only lose
it. What `informationOne` means is judged behind the queue, where a reading that makes no sense is kept as a dead
letter, until a person has mended it.
"""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from headwater import App, Discard, Event, attempt, require

Information = Annotated[str, Field(min_length=1, max_length=10_000)]


class NewReading(BaseModel):
    """What a device sends."""

    model_config = ConfigDict(extra="forbid")

    informationOne: Information
    informationTwo: Information


class Reading(NewReading):
    """`id` is that of the answer to the POST, also when it was mended since; `user_id` the token's subject."""

    id: str
    user_id: str


app = App("intake", http="apps.intake.api")
incoming = app.queue("incoming", NewReading, max_receives=3)
readings = app.table("readings", Reading, key=("user_id", "id"))

app.ingest(incoming, "/data", auth=require("data.write", throttle="intake"))
app.expose(readings, "/data", methods=["GET"], read=require("data.read"), owner="user_id")


@app.on(incoming, batch=50)
async def persist(events: list[Event[NewReading]]) -> None:
    """One commit for the batch; a reading that cannot be persisted fails alone."""
    for event in events:
        async with attempt(event):
            if event.caller is None:
                raise Discard("nobody sent it")
            check_information(event.data.informationOne)
            id = event.attributes.get("redriven-from", event.id)
            await readings.put(Reading(id=id, user_id=event.caller.subject, **event.data.model_dump()))


def check_information(text: str) -> None:
    """`informationOne` is free text or, from devices of the second generation, a JSON object in a text."""
    if text.lstrip().startswith("{"):
        try:
            json.loads(text)
        except ValueError as error:
            raise ValueError(f"informationOne is no whole JSON object: {error}") from error
