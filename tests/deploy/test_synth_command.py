"""`headwater synth aws` as it is called: without an account, without an SDK, the same bytes again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COMMAND = """
import sys
for name in ("boto3", "botocore", "obstore"):
    sys.modules[name] = None
from headwater.cli.main import main
main()
"""


def synth(folder: Path, *arguments: str, settings: str = "") -> subprocess.CompletedProcess[str]:
    """In a process that cannot import an SDK and has no credentials."""
    (folder / "headwater.toml").write_text(f'[default]\napps = ["apps.intake.app"]\n{settings}', "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HEADWATER_"))}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-c", _COMMAND, "synth", "aws", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_template_goes_to_standard_output(tmp_path: Path) -> None:
    first, second = synth(tmp_path), synth(tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    resources = json.loads(first.stdout)["Resources"]
    assert resources["IntakeReadingsTable"]["Properties"]["TableName"] == "headwater-default-intake-readings"


def test_terraform_goes_into_a_folder(tmp_path: Path) -> None:
    settings = '[prod.aws]\nstack = "shop-prod"\n'
    told = synth(tmp_path, "--env", "prod", "--format", "terraform", "--out", "made", settings=settings)
    assert told.returncode == 0, told.stderr
    made = json.loads((tmp_path / "made" / "shop-prod.tf.json").read_text("utf-8"))
    assert made["resource"]["aws_dynamodb_table"]["IntakeReadingsTable"]["name"] == "shop-prod-intake-readings"


def test_what_aws_cannot_do_is_told_in_two_lines(tmp_path: Path) -> None:
    told = synth(tmp_path, settings='[default.aws]\nexports = ["intake/none"]\n')
    assert told.returncode == 1
    assert told.stdout == ""
    assert "intake/none" in told.stderr
    assert "Traceback" not in told.stderr


def test_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    told = synth(tmp_path, settings='[default.aws]\nregion = "eu-central-1"\n')
    assert told.returncode != 0
    assert "region" in told.stderr
