"""`headwater synth`: what an environment consists of on AWS, as a template. Needs no account and no network."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli import exits, output
from headwater.cli.options import Env

if TYPE_CHECKING:
    from headwater.deploy.model import Stack

app = typer.Typer(no_args_is_help=True, help="Write what the apps need on AWS as a template.")


class Format(StrEnum):
    CLOUDFORMATION = "cloudformation"
    TERRAFORM = "terraform"


@app.command("aws")
def synth_aws(
    context: typer.Context,
    *,
    apps: Annotated[
        list[str] | None,
        typer.Argument(metavar="[APPS]...", help="Modules with an app; by default those of headwater.toml."),
    ] = None,
    env: Env = "",
    format: Annotated[Format, typer.Option("--format", help="What it is written for.")] = Format.CLOUDFORMATION,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIRECTORY", help="Where to; by default standard output.", show_default=False),
    ] = None,
) -> None:
    """Write the template of an environment: the same bytes for the same apps and settings."""
    from headwater.cli import serve
    from headwater.deploy.stack import synthesize
    from headwater.graph import build_graph

    folder, config = serve.configured(serve.RunOptions(tuple(apps or ()), environment=env))
    loaded = serve.load_apps(config, folder, debug=bool(context.obj))
    if loaded is None:
        raise typer.Exit(exits.FAILED)
    stack = synthesize(build_graph(loaded), config)
    name, template = _written(stack, format)
    text = json.dumps(template, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_text(text, "utf-8")
    output.note(f"{out / name}: {len(stack.resources)} resources of the stack {stack.name}")


def _written(stack: Stack, format: Format) -> tuple[str, dict[str, Any]]:
    """The file's name and what is in it."""
    if format is Format.TERRAFORM:
        from headwater.deploy.terraform import to_terraform

        return f"{stack.name}.tf.json", to_terraform(stack)
    from headwater.deploy.cloudformation import to_cloudformation

    return f"{stack.name}.template.json", to_cloudformation(stack)
