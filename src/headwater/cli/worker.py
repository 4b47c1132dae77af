"""`headwater worker`: run handlers in a process of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.cli import exits
from headwater.cli.options import Env, Store


def worker(
    context: typer.Context,
    *,
    apps: Annotated[
        list[str] | None,
        typer.Argument(metavar="[APPS]...", help="Modules with an app, as package.module or package.module:app."),
    ] = None,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", metavar="QUEUE", help="Only this queue, as app/queue; may be repeated."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, max=1024, help="Jobs at once.", show_default=False)
    ] = None,
    store: Store = "",
    env: Env = "",
    server: Annotated[
        str, typer.Option("--server", metavar="URL", hidden=True, help="Where the apps are served.")
    ] = "",
    attached: Annotated[bool, typer.Option("--attached", hidden=True, help="End with standard input.")] = False,
) -> None:
    """Run the handlers with run_in="process", in this process, for the server of the store."""
    import asyncio

    from headwater.cli import serve
    from headwater.runtime.logs import configure_logs
    from headwater.runtime.worker import Worker

    configure_logs()
    options = serve.RunOptions(tuple(apps or ()), store, environment=env)
    folder, config = serve.configured(options)
    loaded = serve.load_apps(config, folder, debug=bool(context.obj))
    if loaded is None:
        raise typer.Exit(exits.FAILED)

    async def run() -> int:
        made = Worker(
            loaded, config, queues=queues or (), concurrency=concurrency or 0, attached=attached, server=server
        )
        return await made.run()

    with asyncio.Runner(loop_factory=serve.loop_factory()) as runner:
        code = runner.run(run())
    serve.end_threads(code)
    raise typer.Exit(code)
