"""`headwater.toml`, its sections, and the variables that go before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.config import FILE, Config, absolute_store, admin_socket, find_folder, load_config
from headwater.errors import DeclarationError


def write(folder: Path, text: str) -> None:
    (folder / "headwater.toml").write_text(text, "utf-8")


def load(folder: Path, environment: str = "", **variables: str) -> Config:
    return load_config(folder, environment=environment, environ=variables)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    config = load(tmp_path)
    hidden = tmp_path.resolve() / ".headwater"
    assert config == Config(
        store=f"sqlite:{hidden}",
        development_key_file=str(hidden / "development.key"),
        secret_key_file=str(hidden / "secret.key"),
    )
    assert (config.host, config.port, config.history_ms, config.drain_s) == ("127.0.0.1", 8000, 7 * 86_400_000, 10.0)


def test_a_section_goes_before_default_and_variables_before_both(tmp_path: Path) -> None:
    write(tmp_path, '[default]\nport = 1\nhost = "a"\ndrain = "1s"\n[live]\nport = 2\nhost = "b"\n')
    assert load(tmp_path).port == 1
    assert load(tmp_path, "live").host == "b"
    assert load(tmp_path, "live").drain == "1s"
    assert load(tmp_path, HEADWATER_ENV="live").port == 2
    assert load(tmp_path, "default", HEADWATER_ENV="live").port == 1
    assert load(tmp_path, "live", HEADWATER_PORT="3").port == 3
    assert load(tmp_path, HEADWATER_APPS="one, two.app").apps == ("one", "two.app")


def test_a_store_is_relative_to_its_file_and_in_a_variable_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, '[default]\nstore = "sqlite:data"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load(tmp_path).store == f"sqlite:{tmp_path.resolve() / 'data'}"
    assert load(tmp_path, HEADWATER_STORE="sqlite:data").store == f"sqlite:{tmp_path.resolve() / 'below' / 'data'}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default]\nprot = 1\n", "prot"),
        ('[default]\nport = "many"\n', "port"),
        ("[default]\nport = 65536\n", "port"),
        ('[default]\nhistory = "soon"\n', "history"),
        ('[default]\ndrain = "-1s"\n', "drain"),
        ("[default]\nstore = 1\n", "store"),
        ("[default]\napps = 1\n", "apps"),
        ("port = 1\n", "outside of a section"),
        ("[default\n", "line 1"),
    ],
)
def test_a_wrong_file_names_itself_and_the_setting(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path, text)
    with pytest.raises(DeclarationError) as caught:
        load(tmp_path)
    assert said in str(caught.value)
    assert caught.value.resource == str(tmp_path / "headwater.toml")


def test_an_unknown_environment_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "[default]\n")
    with pytest.raises(DeclarationError, match=r"no section \[live\]"):
        load(tmp_path, "live")


def test_the_nearest_file_above_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_folder(below) == below.resolve()
    write(tmp_path, "[default]\n")
    assert find_folder(below) == tmp_path.resolve()
    write(below, "[default]\n")
    assert find_folder(below) == below.resolve()


def test_absolute_stores_and_other_schemes_stay(tmp_path: Path) -> None:
    assert absolute_store("sqlite:/var/data", tmp_path) == "sqlite:/var/data"
    assert absolute_store("sqlite:///var/data", tmp_path) == "sqlite:/var/data"
    assert absolute_store("postgresql://host/name", tmp_path) == "postgresql://host/name"
    assert absolute_store("sqlite:", tmp_path) == "sqlite:"


def test_the_socket_of_a_deep_folder_is_short_and_its_own(tmp_path: Path) -> None:
    near = admin_socket(f"sqlite:{tmp_path}")
    assert near == tmp_path.resolve() / "admin.sock" or len(str(tmp_path)) > 80
    deep = [admin_socket(f"sqlite:{tmp_path / (letter * 120)}") for letter in "ab"]
    assert all(len(str(path)) < 100 for path in deep)
    assert deep[0] != deep[1]


def test_where_webhooks_may_go_and_the_key_of_their_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[default]\nsecret_key_file = "k"\n[default.webhooks]\nallow = ["10.0.0.0/8"]\nhttp = true\n')
    config = load(tmp_path)
    assert config.webhooks.permits("10.1.2.3")
    assert not config.webhooks.permits("127.0.0.1")
    assert (config.webhooks.http, config.secret_key_file) == (True, str(tmp_path / "k"))
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, HEADWATER_SECRET_KEY_FILE="v").secret_key_file == str(tmp_path / "v")
    write(tmp_path, '[default.webhooks]\nallow = ["ten"]\n')
    with pytest.raises(DeclarationError, match=r"headwater\.toml.*'ten'"):
        load(tmp_path)


@pytest.mark.parametrize("url", ["https://api.example", "http://127.0.0.1:8000", "https://api.example/base/"])
def test_the_public_url_is_a_base_url(tmp_path: Path, url: str) -> None:
    write(tmp_path, f'[default]\npublic_url = "{url}"\n')
    assert load(tmp_path).public_url == url


@pytest.mark.parametrize(
    "url", ["api.example", "/files", "ftp://api.example", "https://", "https://a?b=c", "https://["]
)
def test_other_public_urls_are_refused(tmp_path: Path, url: str) -> None:
    write(tmp_path, f'[default]\npublic_url = "{url}"\n')
    with pytest.raises(DeclarationError, match="public_url"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('metrics = "9464"', "127.0.0.1:9464"),
        ('metrics = ":9464"', "127.0.0.1:9464"),
        ('metrics = "localhost:http"', "127.0.0.1:9464"),
        ("[default.alarms]\ntypo = false", "no built-in alarm 'typo'"),
        ('[default.alarms]\noldest-message = { above = "soon" }', "'soon' is not a duration"),
        ("[default.alarms]\nhandler-failing = { datapoints = [4, 3] }", "m of the last n"),
        ("[default.alarms]\ndead-letters = { beyond = 1 }", "beyond"),
    ],
)
def test_settings_of_metrics_and_alarms_are_judged(tmp_path: Path, setting: str, said: str) -> None:
    (tmp_path / FILE).write_text(f"[default]\n{setting}\n")
    with pytest.raises(DeclarationError) as refused:
        load_config(tmp_path, environ={})
    assert said in str(refused.value)


def test_an_address_of_metrics_may_be_one_of_ipv6(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[default]\nmetrics = "[::1]:9464"\n')
    assert load_config(tmp_path, environ={}).metrics_address == ("::1", 9464)
