"""Starting the victims of the fault tests."""

from __future__ import annotations

from pathlib import Path

from tests.warm import Talking

ROOT = Path(__file__).parents[2]


class Victim(Talking):
    """A module of this folder, run as a process."""

    def __init__(self, module: str, *arguments: str) -> None:
        super().__init__(f"tests.faults.{module}", *arguments)
