"""Amazon SES (API v2) as what takes mail: the same MIME message that an SMTP server would get.

Region, endpoint and credentials come from the environment or the machine's role. What SES says about the message or
its addresses is a refusal for good; all else (throttling, an identity that is not verified yet, a paused account, no
connection) may be mended and is tried again.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from headwater.errors import DeclarationError
from headwater.mail import Mail
from headwater.runtime.composing import one_line
from headwater.runtime.smtp import MAX_ANSWER, NotTaken, Refused, compose_message

_FOR_GOOD = frozenset({"BadRequestException", "MessageRejected"})
_UNVERIFIED = "not verified"


class Ses:
    """`sender` is an identity that SES has verified."""

    def __init__(self, sender: str, configuration_set: str = "", timeout_s: float = 30.0) -> None:
        self.sender = sender
        self._set = {"ConfigurationSetName": configuration_set} if configuration_set else {}
        self._timeout_s = timeout_s

    async def send(self, mail: Mail) -> str:
        """Hand the mail over; the id that SES gave it. Raises `Refused` and `NotTaken`."""
        from botocore.exceptions import BotoCoreError, ClientError

        request = {
            "FromEmailAddress": self.sender,
            "Destination": {"ToAddresses": [mail.to]},
            "Content": {"Raw": {"Data": compose_message(mail, self.sender).as_bytes()}},
            **self._set,
        }
        try:
            answer = await asyncio.to_thread(self._client.send_email, **request)
        except ClientError as error:
            raise judge_answer(error.response.get("Error", {})) from None
        except BotoCoreError as error:
            raise NotTaken(one_line(f"SES: {error}", MAX_ANSWER)) from None
        return f"250 {answer['MessageId']}"

    @cached_property
    def _client(self) -> Any:
        try:
            import botocore.session
            from botocore.config import Config
        except ImportError as error:
            raise DeclarationError(
                "mail by SES needs the package boto3", operation="send mail", hint="install headwater[aws]"
            ) from error
        limits = Config(
            connect_timeout=self._timeout_s, read_timeout=self._timeout_s, retries={"total_max_attempts": 2}
        )
        return botocore.session.get_session().create_client("sesv2", config=limits)


def judge_answer(said: dict[str, str]) -> Exception:
    """What an error of SES means for the mail."""
    code, message = said.get("Code", ""), said.get("Message", "")
    told = one_line(f"SES: {code} {message}", MAX_ANSWER)
    return Refused(told) if code in _FOR_GOOD and _UNVERIFIED not in message else NotTaken(told)
