"""`headwater smoke`: whether what was deployed works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli import exits, output
from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson

if TYPE_CHECKING:
    from headwater.deploy.smoke import Check


def smoke(
    url: Annotated[str, typer.Argument(metavar="[URL]", help="Where the apps are served.", show_default=False)] = "",
    *,
    stack: Annotated[str, typer.Option("--stack", metavar="NAME", help="Ask this stack, and its relay, too.")] = "",
    app: Annotated[list[str] | None, typer.Option("--app", metavar="NAME", help="Ask only this app.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a deployment whether it lives, for its APIs, and with --stack let an event pass through its relay."""
    if not url and not stack:
        raise UsageError("give a URL, --stack, or both")
    from headwater.deploy.smoke import check_api, check_relay

    checks: list[Check] = []
    apps = tuple(app or ())
    if stack:
        url, served = _of_stack(stack, url)
        apps = apps or served
    for check in check_api(url, apps) if url else ():
        checks.append(_told(check, as_json))
    if stack:
        checks.append(_told(check_relay(stack), as_json))
    if as_json:
        from msgspec import to_builtins

        output.print_json({"url": url, "stack": stack, "checks": to_builtins(checks)})
    if any(check.problem for check in checks):
        raise typer.Exit(exits.FAILED)


def _of_stack(stack: str, url: str) -> tuple[str, tuple[str, ...]]:
    """The URL of a stack's API, unless one is given, and the apps that it serves."""
    from headwater.deploy.cloud import Artifacts, Cloud
    from headwater.deploy.rollout import Rollout

    cloud = Cloud()
    rollout = Rollout(cloud, Artifacts(cloud, "-"), stack)
    if rollout.describe() is None:
        raise UsageError(f"there is no stack {stack} in {cloud.account}, {cloud.region}")
    functions = (name for _, name in rollout.resources("AWS::Lambda::Function"))
    served = (name.removeprefix(f"{stack}-").removesuffix("-http") for name in functions if name.endswith("-http"))
    return url or rollout.outputs().get("Url", ""), tuple(sorted(served))


def _told(check: Check, as_json: bool) -> Check:
    if not as_json:
        print(f"{'FAILED' if check.problem else 'ok':6}  {check.name}  {check.seconds:.2f} s  {check.problem}".rstrip())
    return check
