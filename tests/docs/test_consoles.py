"""The console blocks of README and quickstart run: the commands of a page, in order, in a folder of its own.

Their output is what the page shows.
In an expected line `…` stands for any text, a line `…` for any lines. Ids, times, process ids and durations differ from
run to run: an id that the page shows stands for the one that was printed in its place, in later commands too. `^C`
ends the server that the page has started.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, Block, blocks
from tests.patience import PATIENCE_S
from tests.ports import free_port

ID = re.compile(r"\b[0-9a-f]{32}\b")
VARYING = (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", r"pid \d+", r"\b\d+\.\d+ ?s\b", r"sqlite:/\S+")
"""Times, process ids, durations, the store's place."""
SERVERS = {"headwater run": "durability", "headwater tour": "Ctrl-C ends the server."}
STAND_INS = {"make run": "headwater tour"}
LEFT_OUT = ("git clone ",)
READS = ("headwater table ", "headwater trace ", "headwater tail ")
PAGES = [ROOT / "README.md", DOCS / "quickstart.md"]


def steps(found: list[Block]) -> Iterator[tuple[str, str]]:
    """Each command with the output that the page shows; "^C" is a command without output."""
    for block in found:
        shown = re.split(r"^(?:\$ (.+)|(\^C))\n", block.code, flags=re.MULTILINE)
        assert shown[0] == "", f"{block.place}: output without a command"
        for command, interrupt, output in zip(shown[1::3], shown[2::3], shown[3::3], strict=True):
            yield command or interrupt, output


class Terminal:
    """Runs commands in a folder; knows which ids stand for which of the page's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.console = free_port(), free_port()
        self.ids: dict[str, str] = {}
        self.server: subprocess.Popen[str] | None = None
        self.log = folder / "server.out"
        bin_folder = Path(sys.executable).parent
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "HEADWATER_PORT": str(self.port),
            "HEADWATER_CONSOLE_ADDRESS": f"127.0.0.1:{self.console}",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "HEADWATER_LOG_LEVEL": "warning",
            "HEADWATER_TRACE_SAMPLE": "0",
        }

    def run(self, command: str, shown: str) -> None:
        if command == "^C":
            self.interrupt()
            return
        if command.startswith(LEFT_OUT):
            return
        if command.startswith("cd "):
            assert shown == ""
            self.folder /= command[3:]
            return
        command = STAND_INS.get(command, command)
        if command in SERVERS:
            self.check(command, self.serve(command), shown)
            return
        self.check(command, self.call(command, shown), shown)

    def call(self, command: str, shown: str) -> str:
        """The command's output; a read is repeated until it shows what it is to show, as a handler may still run."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            output = self.execute(command)
            if not command.startswith(READS) or self.matches(output, shown) or time.monotonic() > deadline:
                return output

    def execute(self, command: str) -> str:
        for page_id, real_id in self.ids.items():
            command = command.replace(page_id, real_id)
        command = command.replace(":8000", f":{self.port}").replace("curl ", "curl -s ")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        output = self.usual(done.stdout.replace("\r", ""))
        return output if output.endswith("\n") or not output else f"{output}\n"

    def serve(self, command: str) -> str:
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                command.split(), cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )
        deadline = time.monotonic() + PATIENCE_S
        while SERVERS[command] not in (output := self.log.read_text()):
            assert self.server.poll() is None, output
            assert time.monotonic() < deadline, output
            time.sleep(0.05)
        return self.usual(output)

    def usual(self, output: str) -> str:
        """With the ports that the pages show."""
        return output.replace(str(self.port), "8000").replace(str(self.console), "8001")

    def interrupt(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.send_signal(signal.SIGINT)
            assert server.wait(PATIENCE_S) == 0, self.log.read_text()

    def pattern(self, shown: str) -> tuple[re.Pattern[str], list[str]]:
        """What the output must look like, and the page's ids in the order of the pattern's groups."""
        found: list[str] = []
        lines = []
        for line in shown.splitlines():
            if line == "…":
                lines.append(r"(?:.*\n)*?")
                continue
            lines.append(f"{self._line(line, found)}\n")
        return re.compile("".join(lines)), found

    def _line(self, line: str, found: list[str]) -> str:
        """One line as a regular expression: ids are groups, what varies matches its own form."""
        varying = re.compile("|".join([ID.pattern, *VARYING, "…"]))
        text, at = "", 0
        for match in varying.finditer(line):
            text += re.escape(line[at : match.start()])
            if ID.fullmatch(match[0]):
                found.append(match[0])
                text += f"({ID.pattern})"
            elif match[0] == "…":
                text += ".*"
            else:
                text += next(form for form in VARYING if re.fullmatch(form, match[0]))
            at = match.end()
        return text + re.escape(line[at:])

    def matches(self, output: str, shown: str) -> bool:
        pattern, found = self.pattern(shown)
        match = pattern.fullmatch(output)
        if match is None:
            return False
        bound = {**self.ids}
        for page_id, real_id in zip(found, match.groups(), strict=True):
            if bound.setdefault(page_id, real_id) != real_id:
                return False
        self.ids = bound
        return True

    def check(self, command: str, output: str, shown: str) -> None:
        assert self.matches(output, shown), f"$ {command}\nprinted\n{output}\nthe page shows\n{shown}"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    try:
        yield opened
    finally:
        opened.interrupt()


@pytest.mark.needs("curl", package="curl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page: Path, terminal: Terminal) -> None:
    if page.name == "README.md":
        shutil.copytree(ROOT / "apps", terminal.folder / "apps", ignore=shutil.ignore_patterns("tests", "__pycache__"))
        shutil.copy(ROOT / "headwater.toml", terminal.folder)
    found = [block for block in blocks(page) if block.language == "console" and not block.not_run]
    for command, shown in steps(found):
        terminal.run(command, shown)
