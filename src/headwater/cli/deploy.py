"""`headwater deploy`, `diff` and `destroy`: an environment of the apps on AWS, and away from it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import exits, output
from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Yes, confirm

if TYPE_CHECKING:
    from headwater.deploy.artifacts import Release
    from headwater.deploy.rollout import Planned, Rollout, StackEvent

app = typer.Typer(no_args_is_help=True, help="Bring the apps to where they run.")
Apps = Annotated[
    list[str] | None,
    typer.Argument(metavar="[APPS]...", help="Modules with an app; by default those of headwater.toml."),
]
Lock = Annotated[
    Path, typer.Option("--lock", metavar="FILE", help="The locked requirements, with hashes, of the apps.")
]
Wheels = Annotated[
    Path | None,
    typer.Option("--wheels", metavar="DIRECTORY", help="Take wheels from here, without a network.", show_default=False),
]
Bucket = Annotated[
    str,
    typer.Option(
        "--bucket", metavar="NAME", help="Where packages go; by default one that is made.", show_default=False
    ),
]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help="A parameter of the stack.")
]
LOCK = Path("requirements.txt")


@app.command("aws")
def deploy(
    context: typer.Context,
    *,
    apps: Apps = None,
    env: Env = "",
    lock: Lock = LOCK,
    wheels: Wheels = None,
    bucket: Bucket = "",
    parameter: Parameters = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Build the packages, show what would change, ask, and do it: one stack of CloudFormation."""
    from headwater.deploy.store import install_catalog

    release = _release(apps, env, debug=bool(context.obj))
    rollout, planned = _plan(release, lock, wheels, bucket, parameter, send=True)
    if not planned.change_set:
        output.note("nothing changes")
        outputs = rollout.outputs()
    else:
        _show(planned)
        _ask(rollout, planned, yes=yes)
        outputs = rollout.execute(planned, tell)
    install_catalog(release.graph, release.stack.name)
    if as_json:
        output.print_json({"stack": planned.stack, "changed": bool(planned.change_set), "outputs": outputs})
    else:
        output.print_facts(sorted(outputs.items()) or [("Stack", planned.stack)])


def diff(
    context: typer.Context,
    *,
    apps: Apps = None,
    env: Env = "",
    lock: Lock = LOCK,
    wheels: Wheels = None,
    bucket: Bucket = "",
    parameter: Parameters = None,
    as_json: AsJson = False,
) -> None:
    """Show what `headwater deploy aws` would change, and change nothing."""
    release = _release(apps, env, debug=bool(context.obj))
    rollout, planned = _plan(release, lock, wheels, bucket, parameter, send=False)
    if planned.change_set:
        rollout.discard(planned)
    if as_json:
        from msgspec import to_builtins

        output.print_json({"stack": planned.stack, "new": planned.creates, "changes": to_builtins(planned.changes)})
    else:
        _show(planned, print)


def destroy(
    *,
    env: Env = "",
    stack: Annotated[str, typer.Option("--stack", metavar="NAME", help="The stack, if not the environment's.")] = "",
    data: Annotated[bool, typer.Option("--data", help="Delete its tables and buckets, too, with all in them.")] = False,
    name: Annotated[
        str, typer.Option("--confirm", metavar="NAME", help="The stack's name, instead of typing it when asked.")
    ] = "",
) -> None:
    """Delete an environment from AWS. Its tables and buckets stay, unless --data says that they go."""
    from headwater.deploy.cloud import Artifacts, Cloud
    from headwater.deploy.removal import delete_data, kept_data
    from headwater.deploy.rollout import Rollout

    stack = stack or _stack_of(env)
    cloud = Cloud()
    rollout = Rollout(cloud, Artifacts(cloud), stack)
    if rollout.describe() is None:
        raise exits.UsageError(f"there is no stack {stack} in {cloud.account}, {cloud.region}")
    found = kept_data(rollout)
    output.note(f"stack {stack} in {cloud.account}, {cloud.region}; its data is {'DELETED' if data else 'kept'}:")
    for one in found:
        output.note(f"  {one.type.removeprefix('AWS::')} {one.name}")
    _confirm_by_name(stack, name)
    rollout.delete(tell)
    for one in delete_data(cloud, found) if data else ():
        output.note(f"deleted {one.name}")
    output.note(f"{stack} is gone" + ("" if data or not found else "; its data is kept"))


def tell(event: StackEvent) -> None:
    output.note(event.line())


def _release(apps: list[str] | None, env: str, *, debug: bool) -> Release:
    from headwater.cli import serve
    from headwater.deploy.artifacts import make_release

    folder, config = serve.configured(serve.RunOptions(tuple(apps or ()), environment=env))
    loaded = serve.load_apps(config, folder, debug=debug)
    if loaded is None:
        raise typer.Exit(exits.FAILED)
    return make_release(loaded, config, folder)


def _plan(
    release: Release, lock: Path, wheels: Path | None, bucket: str, given: list[str] | None, *, send: bool
) -> tuple[Rollout, Planned]:
    """Build the packages, bring them to AWS where `send`, and have the changes worked out."""
    from headwater.deploy.artifacts import code_parameters, upload
    from headwater.deploy.cloud import Artifacts, Cloud
    from headwater.deploy.package import shown_size
    from headwater.deploy.rollout import Rollout

    parameters = _parameters(given)
    cloud = Cloud()
    artifacts = Artifacts(cloud, bucket)
    output.note(f"stack {release.stack.name} in account {cloud.account}, {cloud.region}")
    with TemporaryDirectory(prefix="headwater-deploy-") as folder:
        built = []
        for one in release.build(lock, Path(folder), wheels):
            sizes = f"{shown_size(one.package.zipped)}, unzipped {shown_size(one.package.unzipped)}"
            output.note(f"package {one.place}: {sizes}")
            built.append(one)
        artifacts.prepare()
        for one in upload(built, artifacts) if send else ():
            output.note(f"uploaded {one.place} to {artifacts.name}")
    rollout = Rollout(cloud, artifacts, release.stack.name)
    parameters = code_parameters(built, artifacts.name) | parameters
    return rollout, rollout.plan(release.template, parameters, release.stack.tags)


def _parameters(given: list[str] | None) -> dict[str, str]:
    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--parameter {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def _stack_of(env: str) -> str:
    from headwater.config import find_folder, load_config

    config = load_config(find_folder(Path.cwd()), environment=env)
    return config.aws.stack or f"headwater-{config.environment}"


def _ask(rollout: Rollout, planned: Planned, *, yes: bool) -> None:
    """Go on, or leave nothing behind."""
    try:
        confirm("deploy this?", yes=yes)
    except (typer.Abort, UsageError):
        rollout.discard(planned)
        raise


def _confirm_by_name(stack: str, name: str) -> None:
    if not name:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask on", f"--confirm {stack} does it without asking")
        name = typer.prompt(f"type {stack} to delete it", err=True)
    if name != stack:
        raise UsageError(f"{name!r} is not {stack!r}; nothing was deleted")


def _show(planned: Planned, say: Callable[[str], None] = output.note) -> None:
    from headwater.deploy.changes import summary

    say(f"{planned.stack}{' (new)' if planned.creates else ''}: {summary(planned.changes)}")
    for change in planned.changes:
        say(f"  {change.line()}")
