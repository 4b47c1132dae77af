"""A real SMTP server on the loopback, for tests: scripted answers, TLS and a login, and what it took."""

from __future__ import annotations

import asyncio
import datetime
import email
import ipaddress
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Answer = Callable[[str], str]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
USER, PASSWORD = "mailer", "canary-pässword"


class MailServer:
    """`async with MailServer() as server`: `mails` is what was answered with 250, `data` what was received.

    `on_recipient` and `on_data` answer for an address: "250 …", "450 …" or "550 …".
    """

    def __init__(self, port: int = 0, *, folder: Path | None = None, security: str = "none", login: bool = False):
        self.port = port
        self.mails: list[tuple[str, EmailMessage]] = []
        self.received: list[tuple[str, EmailMessage]] = []
        self.options: list[list[str]] = []
        self.encrypted: list[bool] = []
        self.logins: list[bool] = []
        self.on_recipient: Answer = lambda address: "250 OK"
        self.on_data: Answer = lambda address: "250 taken"
        self.smtputf8 = True
        self._tls = certificate(folder) if folder else None
        self._security = security
        self._login = login
        self._server: asyncio.Server | None = None
        self._sessions: list[SMTP] = []

    async def __aenter__(self) -> MailServer:
        direct = self._tls if self._security == "tls" else None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", self.port, ssl=direct)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for session in self._sessions:
            if session.transport is not None:
                session.transport.close()
        await self._server.wait_closed()

    def _protocol(self) -> SMTP:
        options: dict[str, Any] = {}
        if self._security == "starttls":
            options = {"tls_context": self._tls, "require_starttls": True}
        if self._login:
            options |= {"authenticator": self._authenticate, "auth_required": True}
            options["auth_require_tls"] = self._security == "starttls"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a login without STARTTLS
            session = SMTP(
                self, hostname="test", enable_SMTPUTF8=self.smtputf8, loop=asyncio.get_running_loop(), **options
            )
        self._sessions.append(session)
        return session

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.logins.append(good)
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.on_recipient(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        (to,) = envelope.rcpt_tos
        content = envelope.content
        message = email.message_from_bytes(content if isinstance(content, bytes) else b"", policy=default)
        assert isinstance(message, EmailMessage)
        self.received.append((to, message))
        self.options.append(list(envelope.mail_options))
        self.encrypted.append(self._security == "tls" or session.ssl is not None)
        answer = self.on_data(to)
        if answer.startswith("2"):
            self.mails.append((to, message))
        return answer

    def settings(self, **more: Any) -> dict[str, Any]:
        """The section `smtp` that names this server."""
        found = {"host": "127.0.0.1", "port": self.port, "security": self._security, "sender": "app@example.org"}
        login = {"username": USER, "password": PASSWORD} if self._login else {}
        return {**found, **login, **more}


@asynccontextmanager
async def odd_server(talk: Talk) -> AsyncIterator[int]:
    """The port of a server that says what `talk` says, on each connection; at the end all are closed."""
    talking: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.add(asyncio.current_task())
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        async with server:
            yield server.sockets[0].getsockname()[1]
    finally:
        tasks = [task for task in talking if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's context with a new certificate for 127.0.0.1, which is in `folder/ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a mail server")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "ca.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(private + made.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return context


def parts(message: EmailMessage) -> tuple[str, str]:
    """The plain text and the HTML of a mail."""
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    return plain.get_content(), html.get_content()
