"""The golden templates: what the five applications come to on AWS, to be reviewed as a diff.

`python -m tests.deploy.golden` writes them anew.
"""

from __future__ import annotations

import json
from pathlib import Path

from headwater.deploy.cloudformation import to_cloudformation
from headwater.deploy.terraform import to_terraform
from tests.deploy.applications import APPLICATIONS, stack_of

FOLDER = Path(__file__).parent / "golden"


def expected() -> dict[str, str]:
    """The text of each file: of the applications, and of a small one with all options for Terraform, too."""
    found = {f"{name}.json": to_cloudformation(stack_of(name)) for name in (*APPLICATIONS, "assorted")}
    found["assorted.tf.json"] = to_terraform(stack_of("assorted"))
    return {name: json.dumps(template, indent=1, sort_keys=True) + "\n" for name, template in found.items()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in expected().items():
        (FOLDER / name).write_text(text, "utf-8")
    for stale in {path.name for path in FOLDER.iterdir()} - set(expected()):
        (FOLDER / stale).unlink()


if __name__ == "__main__":
    main()
