"""The mailbox: every mail as it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from headwater.console.screens import Screen, View
from headwater.mail import State

_PAGE = 50
_STATES = tuple(get_args(State))
TONES = {"sent": "good", "failed": "bad"}


async def load_mailbox(view: View) -> Mapping[str, Any]:
    state = view.query.get("state") if view.query.get("state") in _STATES else None
    to, before = view.query.get("to", "").strip(), view.query.get("before", "")
    page = await view.ask("mails", state=state, to=to, limit=_PAGE, before=before)
    wanted = view.query.get("q", "").lower()
    shown = [mail for mail in page["mails"] if wanted in f"{mail['subject']} {mail['queue']} {mail['answer']}".lower()]
    return {"mails": shown, "next": page["next"], "states": _STATES, "state": state or "", "tones": TONES}


async def load_mail(view: View) -> Mapping[str, Any]:
    return {"mail": await view.ask("mail-show", id=view.path["id"]), "tones": TONES}


SCREENS = [
    Screen("/mail", "Mailbox", "mailbox.html", load_mailbox, key="e", topics=("mail",)),
    Screen("/mail/{id}", "Mail", "mail.html", load_mail, topics=("mail",)),
]
