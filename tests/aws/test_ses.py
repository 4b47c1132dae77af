"""Mail by Amazon SES on the stand-in: what it is given, and which answers are for good."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from headwater.config import Config, load_config
from headwater.mail import Mail
from headwater.mail_settings import SesSettings, Smtp
from headwater.runtime.posting import mail_rules
from headwater.runtime.ses import Ses, judge_answer
from headwater.runtime.smtp import NotTaken, Refused
from tests.aws.ministack import Ministack
from tests.ports import free_port

SENDER = "shop@example.org"


def mail(**more: Any) -> Mail:
    told = {
        "id": "01a1fd1f8c9e7f278008b60455f60447-0",
        "queue": "shop/mail",
        "to": "ops@example.org",
        "subject": "Grüße",
        "text": "zwölf\n",
        "html": "<p>zwölf</p>",
        "state": "pending",
        "created_ms": 1_700_000_000_000,
        "events": [],
        "traces": ["t"],
    }
    return Mail(**{**told, **more})


@pytest.fixture
def verified(aws: Ministack) -> Ministack:
    ses = botocore.session.get_session().create_client("sesv2")
    for identity in (SENDER, "ops@example.org"):
        with contextlib.suppress(ses.exceptions.AlreadyExistsException):
            ses.create_email_identity(EmailIdentity=identity)
    return aws


def sent(ministack: Ministack) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{ministack.url}/_ministack/ses/messages", timeout=5) as told:
        return [one for account in json.loads(told.read())["messages"].values() for one in account]


async def test_a_mail_is_handed_over_as_it_is(verified: Ministack) -> None:
    post = mail_rules(Config(ses=SesSettings(sender=SENDER)), {}).post
    assert post is not None
    answer = await post.send(mail())
    assert answer.startswith("250 ")
    (found,) = [one for one in sent(verified) if one["MessageId"] == answer[4:]]
    assert (found["Source"], found["To"], found["Subject"]) == (SENDER, ["ops@example.org"], "Grüße")
    assert found["BodyText"].strip() == "zwölf"


async def test_an_identity_that_is_not_verified_yet_may_be(verified: Ministack) -> None:
    with pytest.raises(NotTaken, match="not verified"):
        await Ses("nobody@example.org").send(mail())


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("MessageRejected", "the message contains invalid content", Refused),
        ("BadRequestException", "Invalid base64", Refused),
        ("MessageRejected", "Email address is not verified.", NotTaken),
        ("TooManyRequestsException", "Maximum sending rate exceeded.", NotTaken),
        ("SendingPausedException", "paused", NotTaken),
        ("NotFoundException", "no such configuration set", NotTaken),
    ],
)
def test_what_is_wrong_with_the_mail_is_a_refusal(code: str, message: str, kind: type[Exception]) -> None:
    assert type(judge_answer({"Code": code, "Message": message})) is kind


async def test_without_an_answer_it_is_tried_again(verified: Ministack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(NotTaken, match="SES"):
        await Ses(SENDER, timeout_s=1).send(mail())


def test_mail_goes_by_one_way() -> None:
    assert mail_rules(Config(), {}).post is None
    smtp = Smtp(host="localhost", sender=SENDER)
    with pytest.raises(ValueError, match="smtp or ses"):
        Config(smtp=smtp, ses=SesSettings(sender=SENDER))
    with pytest.raises(ValueError, match="no mail address"):
        SesSettings(sender="nobody")


def test_the_sender_can_be_a_variable_of_the_function(tmp_path: Path) -> None:
    config = load_config(tmp_path, environ={"HEADWATER_MAIL_FROM": SENDER})
    assert config.ses == SesSettings(sender=SENDER)
