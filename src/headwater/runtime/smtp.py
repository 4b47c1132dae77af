"""SMTP: a mail as a MIME message, and the conversation with the server that takes it.

One connection a mail, within one time-out. The answer decides: 250 after the data is success; a 5xx to the recipient
or the data is a refusal for good; all else (no connection, TLS, the login, 4xx) may be mended and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import format_datetime
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr

from headwater.clock import from_ms
from headwater.mail import Mail
from headwater.mail_settings import PORTS, Security, check_address
from headwater.runtime.composing import one_line

if TYPE_CHECKING:
    import aiosmtplib

MAX_ANSWER = 300
FAREWELL_S = 1.0
MAX_TRACES = 5
"""How many traces a header names."""


class Refused(Exception):
    """The server does not take the mail, and will not."""


class NotTaken(Exception):
    """The mail could not be handed over now."""


class SmtpServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where mail is handed over, and from whom it is."""

    host: str
    sender: str
    security: Security = "starttls"
    port: int = 0
    username: str = ""
    password: SecretStr = SecretStr("")
    timeout_s: float = 30.0

    async def send(self, mail: Mail) -> str:
        """Hand the mail over; the server's answer. Raises `Refused` and `NotTaken`."""
        import aiosmtplib

        client = self._client()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self._converse(client, mail)
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await client.quit(timeout=FAREWELL_S)
            return answer
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _judged(error.recipients[0]) from None
        except aiosmtplib.SMTPDataError as error:
            raise _judged(error) from None
        except aiosmtplib.SMTPAuthenticationError as error:
            raise NotTaken(f"{self.host} answered {error.code} to the login") from None
        except aiosmtplib.SMTPResponseException as error:
            raise NotTaken(_said(error.code, error.message)) from None
        except TimeoutError:
            raise NotTaken(f"{self.host} did not answer within {self.timeout_s:g} s") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise NotTaken(one_line(f"{self.host}: {str(error) or type(error).__name__}", MAX_ANSWER)) from None
        finally:
            client.close()

    def _client(self) -> aiosmtplib.SMTP:
        import aiosmtplib

        return aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port or PORTS[self.security],
            use_tls=self.security == "tls",
            start_tls=self.security == "starttls",
            username=self.username or None,
            password=self.password.get_secret_value() or None,
            timeout=self.timeout_s,
        )

    async def _converse(self, client: aiosmtplib.SMTP, mail: Mail) -> str:
        import aiosmtplib

        await client.connect()
        message = compose_message(mail, self.sender)
        try:
            _, answer = await client.send_message(message, sender=self.sender, recipients=[mail.to])
        except aiosmtplib.SMTPNotSupported:
            raise Refused(f"{self.host} takes ASCII addresses only (it has no SMTPUTF8)") from None
        return _said(250, answer)


def compose_message(mail: Mail, sender: str) -> EmailMessage:
    """The mail as a MIME message: the same bytes each time, so that a second copy is seen to be one."""
    domain = check_address(sender).rpartition("@")[2]
    message = EmailMessage(policy=SMTPUTF8)
    message["From"] = _address(sender)
    message["To"] = _address(mail.to)
    message["Subject"] = _header(mail.subject)
    message["Date"] = format_datetime(from_ms(mail.created_ms))
    message["Message-ID"] = f"<{mail.id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Headwater-Queue"] = mail.queue
    message["X-Headwater-Trace"] = _header(", ".join(mail.traces[:MAX_TRACES]))
    message.set_content(mail.text, cte="quoted-printable")
    message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_{mail.id}")
    return message


def _header(text: str) -> str:
    """Text for a header. `EmailMessage` decodes encoded words (RFC 2047) in what it is given, line breaks too."""
    return one_line(text, MAX_ANSWER).replace("=?", "= ?")


def _address(address: str) -> Address:
    local, _, domain = check_address(address).rpartition("@")
    return Address(username=local, domain=domain)


def _judged(error: aiosmtplib.SMTPResponseException) -> Exception:
    said = _said(error.code, error.message)
    return Refused(said) if 500 <= error.code < 600 else NotTaken(said)


def _said(code: int, message: str) -> str:
    return one_line(f"{code} {message}", MAX_ANSWER)
