"""An app that holds many secrets, and fails with all of them near; copied into a folder of its own as `vault`."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings
from starlette.requests import Request

from headwater import App, Caller, Event, anyone, email, require, webhook


class Settings(BaseSettings):
    vendor_token: Annotated[SecretStr, Field(min_length=16)]
    hook_url: str
    hook_secret: SecretStr


class Note(BaseModel):
    user_id: str
    id: str
    text: Annotated[str, Field(max_length=200)]


class Job(BaseModel):
    n: int


app = App("vault", settings=Settings)
notes = app.table("notes", Note, key=("user_id", "id"))
jobs = app.queue("jobs", Job, max_receives=1)
news = app.topic("news", Job)
news.to(
    webhook(
        app.late(lambda settings: settings.hook_url),
        secret=app.late(lambda settings: settings.hook_secret),
        name="declared",
        max_receives=1,
    )
)
news.to(email("ops@example.org"))
app.expose(notes, "/notes", read=require("notes"), write=require("notes"), owner="user_id")
app.ingest(jobs, "/jobs", auth=require())


def use(*secrets: Any) -> None:
    """Fail with the secrets among the local variables of the frame."""
    raise RuntimeError("it failed")


@app.http.post("/crash")
async def crash(request: Request, caller: Annotated[Caller, require()]) -> None:
    sent = dict(request.headers)
    body = await request.body()
    use(sent, body, app.settings, app.settings.vendor_token.get_secret_value(), caller)


@app.http.post("/open")
async def leave(request: Request, _: Annotated[Caller, anyone(throttle="visitor")]) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@app.http.post("/announce")
async def announce(job: Job, _: Annotated[Caller, require()]) -> None:
    await news.publish(job)


@app.on(jobs)
async def work(event: Event[Job]) -> None:
    use(event, app.settings, app.settings.vendor_token.get_secret_value(), app.settings.hook_secret.get_secret_value())
