"""`headwater run` over real HTTP: the mounted apps, what cannot start, and what a start says."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_processes import Serving, cli, make_shop, socket_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(make_shop(tmp_path_factory.mktemp("server"))) as started:
        _ = started.url
        yield started
        assert started.stop() == 0


def test_the_index_lists_the_apps(server: Serving) -> None:
    assert httpx.get(f"{server.url}/").json() == {"apps": {"shop": {"url": "/shop", "docs": "/shop/docs"}}}


def test_an_unknown_app_is_404_in_json(server: Serving) -> None:
    answer = httpx.get(f"{server.url}/nothing/here")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no app of this name is served here"
    assert "shop" in answer.json()["hint"]
    assert httpx.get(f"{server.url}//shop").status_code == 404


def test_docs_and_openapi_know_where_the_app_is_mounted(server: Serving) -> None:
    assert '"/shop/openapi.json"' in httpx.get(f"{server.url}/shop/docs").text.replace("'", '"')
    openapi = httpx.get(f"{server.url}/shop/openapi.json").json()
    assert openapi["servers"] == [{"url": "/shop"}]
    assert "/orders/{id}" in openapi["paths"]


def test_redirects_stay_below_the_app(server: Serving) -> None:
    answer = httpx.get(f"{server.url}/shop/trailing")
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{server.url}/shop/trailing/"
    assert httpx.get(f"{server.url}/shop/trailing", follow_redirects=True).json() == "here"


def test_an_app_without_this_path_is_404(server: Serving) -> None:
    for path in ("/shop", "/shop/", "/shop/nothing"):
        assert httpx.get(f"{server.url}{path}").status_code == 404


def test_the_start_is_told_in_one_block_on_standard_error(server: Serving) -> None:
    block = server.stderr.splitlines()[:5]
    assert block[0] == f"headwater serves {server.url} (pid {server.process.pid})"
    assert f"{server.url}/shop" in block[1]
    assert "  console     http://127.0.0.1:" in block[2]
    assert f"sqlite:{server.folder / '.headwater'}" in block[3]
    assert "durability" in block[4]


def test_the_admin_socket_is_only_for_this_user(server: Serving) -> None:
    path = socket_of(server.folder)
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == 0o600


def admin(server: Serving) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(socket_of(server.folder)))
    return httpx.Client(transport=transport, base_url="http://admin")


def test_the_admin_api_lists_and_runs_operations(server: Serving) -> None:
    with admin(server) as client:
        listed = {operation["operation"]: operation for operation in client.get("/v1").json()["operations"]}
        assert listed["peek"]["writes"] is False
        assert [p["name"] for p in listed["peek"]["parameters"] if p["required"]] == ["queue"]
        answer = client.post("/v1/send", json={"queue": "shop/parked", "data": {"id": "1", "cents": 1}})
        assert answer.status_code == 200
        (waiting,) = client.post("/v1/peek", json={"queue": "shop/parked"}).json()["messages"]
        assert waiting["event"]["id"] == answer.json()["id"]
        assert client.post("/v1/status").json()["server"]["pid"] == server.process.pid


@pytest.mark.parametrize(
    ("operation", "body", "status", "said"),
    [
        ("nothing", b"{}", 404, "no such operation"),
        ("peek", b"{", 422, "no JSON"),
        ("peek", b"[]", 422, "no JSON object"),
        ("peek", b"{}", 422, "queue"),
        ("peek", b'{"queue": "shop/parked", "limit": "many"}', 422, "limit"),
        ("peek", b'{"queue": "shop/parked", "limt": 1}', 422, "limt"),
        ("peek", b'{"queue": "shop/nothing"}', 404, "no queue"),
        ("table-put", b'{"table": "shop/orders", "value": {"id": "1", "cents": 1}, "if_version": "x"}', 412, "absent"),
        ("send", b'{"queue": "shop/parked", "data": "' + b"x" * 1_100_000 + b'"}', 413, "larger than"),
    ],
)
def test_the_admin_api_refuses(server: Serving, operation: str, body: bytes, status: int, said: str) -> None:
    with admin(server) as client:
        answer = client.post(f"/v1/{operation}", content=body)
    assert answer.status_code == status
    assert said in json.dumps(answer.json())
    assert answer.json()["error"]


def test_a_taken_port_is_refused_before_the_store_is_opened(tmp_path: Path) -> None:
    folder = make_shop(tmp_path / "second")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = cli(folder, "run", "--port", str(port)).failed(1)
    assert f"127.0.0.1:{port}" in ended.err
    assert "in use" in ended.err
    assert not (folder / ".headwater").exists()


def test_a_second_process_on_the_store_is_refused_and_the_first_serves_on(server: Serving) -> None:
    ended = cli(server.folder, "run").failed(1)
    assert f"process {server.process.pid} owns the store" in ended.err
    assert httpx.get(f"{server.url}/").status_code == 200
    assert cli(server.folder, "status", "--json").json["server"]["pid"] == server.process.pid


@pytest.mark.parametrize(
    ("arguments", "app", "said"),
    [
        (["run", "nothing"], None, "there is no module 'nothing'"),
        (["run", "shop:nothing"], None, "no App named 'nothing'"),
        (["run", "../shop"], None, "is no module's name"),
        (["run"], "import nowhere_to_be_found\n", "nowhere_to_be_found"),
        (["run"], "def broken(:\n", "invalid syntax"),
        (["run"], "\nraise RuntimeError('not today')\n", "RuntimeError: not today ("),
        (["run"], "from headwater import App\n\napp = App('Shop')\n", "shop.py:3)"),
        (["run", "--host", "256.0.0.1"], None, "cannot listen"),
        (["run", "--store", "oracle:x"], None, "no engine for the store"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, arguments: list[str], app: str | None, said: str) -> None:
    folder = make_shop(tmp_path / "broken")
    if app is not None:
        (folder / "shop.py").write_text(app, "utf-8")
    assert said in cli(folder, *arguments).failed(1).err


def test_a_store_in_a_deep_folder_is_reached(tmp_path: Path) -> None:
    """The path of its socket would be too long for the system."""
    deep = tmp_path / ("d" * 100)
    folder = make_shop(deep)
    with Serving(folder) as server:
        _ = server.url
        assert not (folder / ".headwater" / "admin.sock").exists()
        assert cli(folder, "status", "--json").json["server"]["pid"] == server.process.pid
        assert server.stop() == 0


def test_no_app_at_all_is_refused(tmp_path: Path) -> None:
    assert "there is no app to run" in cli(tmp_path, "run").failed(1).err


def test_a_wrong_setting_names_the_file(tmp_path: Path) -> None:
    folder = make_shop(tmp_path / "settings")
    for text in ("prot = 1", 'port = "many"', "port = 70000", 'drain = "soon"', "port = "):
        (folder / "headwater.toml").write_text(f"[default]\n{text}\n", "utf-8")
        assert str(folder / "headwater.toml") in cli(folder, "run").failed(1).err


def test_logs_are_json_when_asked(tmp_path: Path) -> None:
    folder = make_shop(tmp_path / "json")
    with Serving(folder, HEADWATER_LOG="json") as server:
        _ = server.url
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.stderr.splitlines() if line.startswith("{")]
    assert lines[-1]["event"] == "stopping"
    assert lines[-1]["level"] == "info"
