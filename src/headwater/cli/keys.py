"""`headwater key`: API keys and what was used of their plans."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.options import AsJson, Env, Limit, Store
from headwater.cli.output import print_json, print_table
from headwater.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, rotate, revoke, and their usage.")
Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `headwater key ls` shows it.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: the caller's subject.")],
    *,
    plan: Annotated[str, typer.Option("--plan", metavar="PLAN", help="The usage plan that meters it.")] = "",
    role: Annotated[list[str] | None, typer.Option("--role", metavar="ROLE", help="A role; may be repeated.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The caller's tenant.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help='After how long it ends, such as "90d".')
    ] = None,
    declare: Annotated[
        bool, typer.Option("--declare", help="Keep nothing in the store: print lines for headwater.toml.")
    ] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Make a key. It is shown once: only a digest is kept."""
    session = Session(store, env)
    if declare:
        _declare(name, plan, role or [], tenant, session.environment)
        return
    answer = session.call(
        "key-create",
        name=name,
        plan=plan,
        roles=role,
        tenant=tenant,
        expires=expires,
        environment=session.environment,
    )
    _print_key(answer, as_json)


def _declare(name: str, plan: str, roles: list[str], tenant: str, environment: str) -> None:
    import json

    from headwater.http.keys import digest_of, make_id, make_key

    id = make_id()
    key = make_key(environment, id)
    values = {"id": id, "digest": digest_of(key), "plan": plan, "roles": roles, "tenant": tenant}
    print(f"# the key, shown once: {key}")
    print(f"[{environment}.keys.{json.dumps(name)}]")
    for option, value in values.items():
        if value:
            print(f"{option} = {json.dumps(value)}")


def _print_key(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(answer["key"])


@app.command("ls")
def list_keys(*, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """List the keys, revoked ones too."""
    answer = Session(store, env).call("keys")
    if as_json:
        print_json(answer)
        return
    found = answer["keys"]
    print_table(
        ("id", "name", "plan", "roles", "state", "expires"),
        ((k["id"], k["name"], k["plan"], " ".join(k["roles"]), _state(k), k["expires"] or "") for k in found),
        "" if found else "keys",
    )


def _state(key: dict[str, Any]) -> str:
    if key["revoked"]:
        return "revoked"
    if not key["valid"]:
        return "expired"
    return "rotating" if key["rotated_until"] else "declared" if key["declared"] else "valid"


@app.command()
def rotate(
    id: Id,
    *,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="DURATION", help="How long the former key is good still.")
    ] = "24h",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Give a key a new secret; prints the new key, once."""
    _print_key(Session(store, env).call("key-rotate", id=id, overlap=overlap), as_json)


@app.command()
def revoke(id: Id, *, as_json: AsJson = False, store: Store = "", env: Env = "") -> None:
    """Refuse a key from now on, for good."""
    answer = Session(store, env).call("key-revoke", id=id)
    if as_json:
        print_json(answer)
    else:
        print(f"revoked {answer['id']} ({answer['name']})")


@app.command()
def usage(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="Of this key only.", show_default=False)] = "",
    *,
    plan: Annotated[str, typer.Option("--plan", metavar="PLAN", help="Of this usage plan only.")] = "",
    limit: Limit = 100,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Show requests counted per key, usage plan and period."""
    answer = Session(store, env).call("key-usage", id=id, plan=plan, limit=limit)
    if as_json:
        print_json(answer)
        return
    found = answer["usage"]
    print_table(
        ("who", "plan", "period", "requests"),
        ((u["who"], u["plan"], u["period"], u["count"]) for u in found),
        "" if found else "usage",
    )
