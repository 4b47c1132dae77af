"""`python -m tests.aws.deploy_driver …`: the command line with a thin package, and a template that ministack takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

from headwater.cli.main import main
from headwater.deploy.cloudformation import to_cloudformation
from headwater.deploy.contents import Contents
from headwater.deploy.model import Stack
from tests.aws.deployed import stand_in


def _thin(*_: Any, **__: Any) -> Contents:
    return Contents({"app.py": Path("shop.py")}, {})


def _taken(stack: Stack) -> dict[str, Any]:
    return stand_in(to_cloudformation(stack), "c0ffee00")


if __name__ == "__main__":
    artifacts = "headwater.deploy.artifacts"
    sleep = patch("time.sleep", lambda seconds: None)
    with patch(f"{artifacts}.gather", _thin), patch(f"{artifacts}.to_cloudformation", _taken), sleep:
        main()
