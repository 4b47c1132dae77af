"""The pages on the command line and the admin API are complete: what is undocumented fails here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from headwater.cli import exits
from headwater.cli.main import app
from headwater.engines import make_engine
from headwater.runtime.admin import Admin

DOCS = Path(__file__).parents[2] / "docs"
COMMON = {"--store", "--env", "--json", "--help", "-h"}


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the third level."""
    parts = re.split(r"(?m)^### ", (DOCS / page).read_text("utf-8"))[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].partition("\n## ")[0] for part in parts}


def commands(command: Any, path: str = "headwater") -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(commands(typer.main.get_command(app)))
OPERATIONS = {operation["operation"]: operation for operation in Admin(make_engine("sqlite:nowhere")).describe()}


def test_the_page_has_exactly_the_commands() -> None:
    assert set(sections("cli.md")) == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_each_option_and_argument_is_documented(path: str) -> None:
    text = sections("cli.md")[path]
    for parameter in COMMANDS[path].params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "option":
            missing = [name for name in {*parameter.opts} - COMMON if not re.search(rf"{name}(?![\w-])", text)]
        else:
            name = (parameter.metavar or parameter.name.upper()).strip("[]. ").split("]")[0].split()[0]
            missing = [] if name in text else [name]
        assert missing == []


def test_the_common_options_are_documented() -> None:
    page = (DOCS / "cli.md").read_text("utf-8")
    assert [option for option in (*COMMON, "--debug") if f"`{option}" not in page and f" {option} " not in page] == []


def test_each_command_says_what_it_does() -> None:
    assert [path for path, command in COMMANDS.items() if not command.help] == []


def test_the_page_has_exactly_the_exit_codes() -> None:
    page = (DOCS / "cli.md").read_text("utf-8")
    assert {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", page)} == set(exits.CODES)


def test_the_page_has_exactly_the_operations() -> None:
    assert set(sections("admin-api.md")) == set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_documented_with_exactly_its_parameters(name: str) -> None:
    text, operation = sections("admin-api.md")[name], OPERATIONS[name]
    assert re.findall(r"(?m)^\| `(\w+)` \|", text) == [parameter["name"] for parameter in operation["parameters"]]
    assert ("*Writes.*" in text) == operation["writes"]
    assert "Answer: " in text
