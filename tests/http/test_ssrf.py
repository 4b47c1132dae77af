"""What webhooks may reach: addresses in every form, names that lie, redirects, answers without an end."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headwater import DeclarationError
from headwater.http.addresses import EgressRules, literal_address
from headwater.http.outbound import MAX_ANSWER, Answer, Failed, Guard, Outbound, Refused, resolve_name
from tests.patience import PATIENCE_S

# fmt: off
FORBIDDEN = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.8.9.10",
    "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
    "2001:10::1", "2002:7f00:1::", "2002:0808:0808::", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "not-an-address",
]
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
    "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:4860:4860::8888", "2606:4700:4700::1111",
    "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
]
LOOPBACK_FORMS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
    "0x7F.0x0.0x0.0x1", "0", "0x0", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:0:0:1",
]
# fmt: on
LOCAL = EgressRules(allow=("127.0.0.1/32",), http=True)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_addresses_that_are_not_public_are_forbidden(address: str) -> None:
    assert not EgressRules().permits(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    assert EgressRules().permits(address)


def test_python_knows_no_further_address_that_is_not_global() -> None:
    """Corners and middle of each /12 (and their mapped forms): what `ipaddress` calls not global is forbidden."""
    for block in range(2**12):
        for offset in (0, 1, 0x8_0000, 0xF_FFFF):
            address = ipaddress.IPv4Address((block << 20) + offset)
            if not address.is_global or address.is_multicast:
                assert not EgressRules().permits(str(address)), address
                assert not EgressRules().permits(f"::ffff:{address}"), address


def test_networks_can_be_allowed() -> None:
    rules = EgressRules(allow=("10.1.0.0/16", "::1/128"))
    assert [rules.permits(a) for a in ("10.1.2.3", "::ffff:10.1.2.3", "::1")] == [True, True, True]
    assert [rules.permits(a) for a in ("10.2.0.1", "127.0.0.1", "::2", "::ffff:10.2.0.1")] == [False] * 4


@pytest.mark.parametrize("network", ["10.0.0.1/8", "everything", "10.0.0.0/99"])
def test_a_network_that_is_none_is_refused(network: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"allow": [network]}, EgressRules)


@pytest.mark.parametrize("host", LOOPBACK_FORMS)
def test_a_literal_is_refused_when_it_is_declared(host: str) -> None:
    assert literal_address(host) is not None
    shown = f"[{host}]" if ":" in host else host
    with pytest.raises(DeclarationError):
        Outbound().check(f"https://{shown}/hook")


@pytest.mark.parametrize("host", LOOPBACK_FORMS)
async def test_a_literal_is_refused_where_connections_are_made(host: str) -> None:
    """Even if the check of the URL did not see it: what the system's resolver makes of it is judged."""
    with pytest.raises(Refused):
        await Guard(EgressRules(), resolve_name).connect_tcp(host, 9)


@pytest.mark.parametrize(
    "url",
    [
        "http://partner.example/",
        "ftp://partner.example/",
        "file:///etc/passwd",
        "gopher://partner.example/",
        "https:///path",
        "https://",
        "partner.example",
        "",
        "https://canary:canary@partner.example/",
        "https://canary@partner.example/",
        "https://127.0.0.1@partner.example/",
        "https://partner.example\r\nX: 1/",
        "https://part ner.example/",
        "https://[::1",
        "https://partner.example:99999999/",
        "https://partner.example:0/",
        "https://partner%00.example/",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        Outbound().check(url)
    assert "canary" not in str(raised.value)


def test_urls_that_are_taken() -> None:
    assert Outbound().check("https://partner.example:8443/a?b=c").host == "partner.example"
    assert Outbound(EgressRules(http=True)).check("http://partner.example/").scheme == "http"
    assert Outbound(LOCAL).check("http://127.0.0.1:9/").port == 9


async def post(outbound: Outbound, url: str, timeout_s: float = 5) -> Answer:
    return await outbound.post(httpx.URL(url), {"x": "1"}, b"body", timeout_s=timeout_s)


class Endpoint:
    """A real server that answers each request with fixed bytes and notes it."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head + await reader.readexactly(4))
            writer.write(self.answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answering(status: int = 200, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def served(
    endpoint: Serve, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    server = await asyncio.start_server(endpoint, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


class Names:
    """A resolver that gives one prepared answer after the other; the last one for good."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_the_answer_comes_back() -> None:
    endpoint = Endpoint(answering(418, "Retry-After: 7", body=b"teapot"))
    outbound = Outbound(LOCAL)
    async with served(endpoint) as port:
        answer = await post(outbound, f"http://127.0.0.1:{port}/hook?a=b")
    await outbound.close()
    assert (answer.status, answer.headers["retry-after"], answer.body) == (418, "7", b"teapot")
    (request,) = endpoint.requests
    assert request.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in request
    assert request.endswith(b"\r\n\r\nbody")


async def test_a_name_is_resolved_once_and_the_judged_address_connected() -> None:
    """Rebinding: the second answer of the resolver names a server that must not be reached."""
    names = Names(["127.0.0.1"], ["127.0.0.9"])
    outside, inside = Endpoint(answering()), Endpoint(answering())
    outbound = Outbound(LOCAL, resolve=names)
    async with served(outside) as port, served(inside, "127.0.0.9", port):
        assert (await post(outbound, f"http://partner.example:{port}/")).status == 200
        assert names.asked == ["partner.example"]
        with pytest.raises(Refused, match=r"127\.0\.0\.9"):
            await post(outbound, f"http://partner.example:{port}/")
    await outbound.close()
    assert (outside.connections, inside.connections) == (1, 0)


async def test_one_forbidden_address_refuses_the_name() -> None:
    endpoint = Endpoint(answering())
    async with served(endpoint) as port:
        for answers in (["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::ffff:10.0.0.1"]):
            outbound = Outbound(LOCAL, resolve=Names(answers))
            with pytest.raises(Refused):
                await post(outbound, f"http://partner.example:{port}/")
            await outbound.close()
    assert endpoint.connections == 0


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    rules = EgressRules(allow=("127.0.0.0/8",), http=True)
    outbound = Outbound(rules, resolve=Names(["127.0.0.7", "127.0.0.1"]))
    async with served(Endpoint(answering(204))) as port:
        assert (await post(outbound, f"http://partner.example:{port}/")).status == 204
    await outbound.close()


async def test_the_system_resolver_reads_numbers_as_addresses() -> None:
    assert await resolve_name("2130706433", 80) == ["127.0.0.1"]
    assert await resolve_name("0x7f.1", 80) == ["127.0.0.1"]


async def test_redirects_are_not_followed() -> None:
    inside = Endpoint(answering())
    async with served(inside, "127.0.0.9") as other:
        outside = Endpoint(answering(302, f"Location: http://127.0.0.9:{other}/"))
        async with served(outside) as port:
            outbound = Outbound(LOCAL)
            assert (await post(outbound, f"http://127.0.0.1:{port}/")).status == 302
            await outbound.close()
    assert inside.connections == 0


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, endpoint = Endpoint(answering(502)), Endpoint(answering())
    async with served(proxy) as proxy_port, served(endpoint) as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy_port}")
        outbound = Outbound(LOCAL)
        assert (await post(outbound, f"http://127.0.0.1:{port}/")).status == 200
        await outbound.close()
    assert proxy.connections == 0


async def test_an_answer_without_an_end_is_cut() -> None:
    sent = 0
    gone = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                await writer.drain()
                sent += 0x1000
        except ConnectionError:
            gone.set()
        finally:
            writer.close()

    outbound = Outbound(LOCAL)
    async with served(endless) as port, asyncio.timeout(PATIENCE_S):
        answer = await post(outbound, f"http://127.0.0.1:{port}/")
        assert len(answer.body) == MAX_ANSWER
        await gone.wait()
    await outbound.close()


async def test_no_answer_is_a_failure() -> None:
    outbound = Outbound(LOCAL)
    stay = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stay.wait()
        writer.close()

    async with served(silent) as port:
        with pytest.raises(Failed, match=r"no answer within 0\.1 s"):
            await post(outbound, f"http://127.0.0.1:{port}/", 0.1)
        stay.set()
    with pytest.raises(Failed):
        await post(outbound, f"http://127.0.0.1:{port}/")
    async with served(Endpoint(b"nonsense\r\n\r\n")) as port:
        with pytest.raises(Failed):
            await post(outbound, f"http://127.0.0.1:{port}/")
    await outbound.close()


async def test_a_name_that_cannot_be_resolved_is_a_failure() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    outbound = Outbound(resolve=unknown)
    with pytest.raises(Failed, match="no such name"):
        await post(outbound, "https://partner.example/secret-path")
    nowhere = Outbound(resolve=Names([]))
    with pytest.raises(Failed, match="no address") as raised:
        await post(nowhere, "https://partner.example/secret-path")
    assert "secret-path" not in str(raised.value)
    await outbound.close()
    await nowhere.close()


async def test_tls_verifies_the_name_although_an_address_is_connected(tmp_path: Path) -> None:
    server, client = certificate("partner.example", tmp_path)
    outbound = Outbound(EgressRules(allow=("127.0.0.1/32",)), resolve=Names(["127.0.0.1"]), tls=client)
    endpoint = Endpoint(answering())
    async with served(endpoint, tls=server) as port:
        assert (await post(outbound, f"https://partner.example:{port}/")).status == 200
        with pytest.raises(Failed, match="certificate"):
            await post(outbound, f"https://other.example:{port}/")
    await outbound.close()
    assert len(endpoint.requests) == 1


def certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for the name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "chain.pem").write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "chain.pem")
    return server, ssl.create_default_context(cadata=pem.decode())
