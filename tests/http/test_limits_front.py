"""The public listener: security headers, proxies, CORS and TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headwater import App
from headwater.config import Config
from headwater.errors import DeclarationError
from headwater.http.front import Front, allow_origins
from headwater.http.limits import Cors, Limits
from headwater.runtime.listener import SECURITY_HEADERS, tls_context
from headwater.runtime.server import Server
from tests.http.certificates import make_certificate
from tests.http.sockets import get, served


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the client's address and the scheme."""
    body = f"{scope['client'][0]} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def test_every_answer_has_the_security_headers() -> None:
    async with served(tell, headers=1000) as server:
        for request in (get(), get("/", "X: " + "x" * 2000), b"nonsense\r\n\r\n"):
            answer = await (await server.connect()).ask(request)
            for name, value in SECURITY_HEADERS.items():
                assert answer.headers[name.lower()] == value
            assert "strict-transport-security" not in answer.headers
            assert "server" not in answer.headers


FORWARDED = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https")


@pytest.mark.parametrize(
    ("proxies", "headers", "told"),
    [
        ((), FORWARDED, b"127.0.0.1 http"),
        (("10.0.0.0/8",), FORWARDED, b"127.0.0.1 http"),
        (("127.0.0.1",), FORWARDED, b"203.0.113.7 https"),
        (("127.0.0.0/8",), ("X-Forwarded-For: 6.6.6.6, 203.0.113.7, 127.0.0.9",), b"203.0.113.7 http"),
        (("127.0.0.1",), ("X-Forwarded-Proto: gopher",), b"127.0.0.1 http"),
    ],
)
async def test_only_configured_proxies_are_believed(
    proxies: tuple[str, ...], headers: tuple[str, ...], told: bytes
) -> None:
    async with served(tell, Config(proxies=proxies)) as server:
        wire = await server.connect()
        assert (await wire.ask(get("/", *headers))).body == told


async def test_pages_of_configured_origins_may_call() -> None:
    app = allow_origins(tell, Cors(origins=("https://shop.example",), max_age="5m"))
    preflight = b"OPTIONS / HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: PUT\r\nOrigin: "
    async with served(app) as server:
        wire = await server.connect()
        allowed = await wire.ask(preflight + b"https://shop.example\r\n\r\n")
        assert allowed.status == 200
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        assert allowed.headers["access-control-max-age"] == "300"
        assert "PUT" in allowed.headers["access-control-allow-methods"]
        refused = await wire.ask(preflight + b"https://evil.example\r\n\r\n")
        assert refused.status == 400
        assert "access-control-allow-origin" not in refused.headers
        answer = await wire.ask(get("/", "Origin: https://shop.example"))
        assert "Headwater-Trace" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in (await wire.ask(get("/", "Origin: https://evil.example"))).headers
    assert allow_origins(tell, Cors()) is tell


async def test_the_front_tells_why_it_is_not_ready_and_knows_no_other_app() -> None:
    front = Front()
    async with served(front) as server:
        starting = await server.get("/ready")
        assert (starting.status, starting.problem["detail"]) == (503, "the server starts")
        assert (await server.get("/live")).body == b'{"status":"live"}'
        front.unready = ""
        assert (await server.get("/ready")).body == b'{"status":"ready"}'
        missing = await server.get("/nothing")
        assert missing.status == 404
        assert missing.problem["error"] == "UnknownResource"


@pytest.mark.parametrize("name", [*Limits.__struct_fields__, *Cors.__struct_fields__])
def test_limits_are_documented(name: str) -> None:
    page = Path(__file__).parents[2] / "docs/limits.md"
    assert f"| `{name}` |" in page.read_text("utf-8")


@pytest.mark.parametrize("name", ["live", "ready"])
def test_names_of_health_are_no_apps(name: str, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="cannot have this name"):
        Server([App(name)], Config(store=f"sqlite:{tmp_path / 'store'}"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_tls_has_the_same_limits(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    config = Config(tls_cert=str(cert), tls_key=str(key))
    trusting = ssl.create_default_context(cafile=str(cert))
    async with served(tell, config, headers=1000, header_timeout="300ms") as server:
        wire = await server.connect(trusting)
        answer = await wire.ask(get())
        assert answer.body == b"127.0.0.1 https"
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        refused = await wire.ask(get("/", "X: " + "x" * 2000))
        assert refused.status == 431
        assert await wire.closed() == b""
        slow = await server.connect(trusting)
        assert (await slow.ask(b"GET /")).status == 408


@pytest.mark.parametrize("how", ["missing", "no pem", "swapped", "another key", "encrypted"])
def test_files_that_cannot_be_used_are_named(certificate: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    cert, key = certificate
    other = tmp_path / "other.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    seal = serialization.BestAvailableEncryption(b"x") if how == "encrypted" else serialization.NoEncryption()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, seal)
    other.write_bytes(b"nothing" if how == "no pem" else pem)
    pair = {"missing": (tmp_path / "gone", key), "swapped": (key, cert), "no pem": (other, key)}.get(how, (cert, other))
    with pytest.raises(DeclarationError) as caught:
        tls_context(Config(tls_cert=str(pair[0]), tls_key=str(pair[1])))
    assert str(pair[0]) in str(caught.value)
