"""`headwater`: the commands, put together. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import io
import sys
from typing import Annotated, NoReturn

import typer
import typer.main
from typer.exceptions import TyperException

from headwater.cli import (
    buckets,
    clock,
    dead_letters,
    deploy,
    exits,
    forget,
    grants,
    house,
    keys,
    mail,
    messages,
    metrics,
    migrate,
    observe,
    operations,
    queues,
    rows,
    scale,
    schedules,
    smoke,
    sql,
    synth,
    tokens,
    topics,
    worker,
)
from headwater.cli.options import Env, Store
from headwater.errors import HeadwaterError

app = typer.Typer(
    name="headwater",
    help="Event-driven backends in Python with one commit from write to event.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def begin(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    context.obj = debug


@app.command()
def run(
    context: typer.Context,
    *,
    apps: Annotated[
        list[str] | None,
        typer.Argument(metavar="[APPS]...", help="Modules with an app, as package.module or package.module:app."),
    ] = None,
    store: Store = "",
    host: Annotated[str, typer.Option("--host", help="The address to listen on.", show_default=False)] = "",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.", show_default=False)
    ] = None,
    env: Env = "",
    tls_cert: Annotated[
        str, typer.Option("--tls-cert", metavar="FILE", help="Serve HTTPS with this chain (PEM).", show_default=False)
    ] = "",
    tls_key: Annotated[
        str, typer.Option("--tls-key", metavar="FILE", help="The certificate's key (PEM).", show_default=False)
    ] = "",
    reload: Annotated[bool, typer.Option("--reload", help="Start anew when a .py or .toml file changes.")] = False,
    virtual_clock: Annotated[
        bool, typer.Option("--virtual-clock", help="Have a clock that can be paused and moved (`headwater clock`).")
    ] = False,
) -> None:
    """Serve apps: those named, or those of headwater.toml."""
    from headwater.cli import serve

    if reload:
        raise typer.Exit(serve.serve_reloading([argument for argument in sys.argv[1:] if argument != "--reload"]))
    options = serve.RunOptions(tuple(apps or ()), store, host, port, env, tls_cert, tls_key, virtual_clock)
    raise typer.Exit(serve.serve(options, debug=bool(context.obj)))


observe.register(app)
house.register(app)
messages.register(app)
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(rows.app, name="table")
app.add_typer(buckets.app, name="bucket")
app.add_typer(topics.app, name="topic")
app.add_typer(queues.app, name="queue")
app.add_typer(operations.app, name="op")
app.add_typer(schedules.app, name="schedule")
app.add_typer(keys.app, name="key")
app.add_typer(scale.app, name="scale")
app.add_typer(forget.app, name="forget")
app.command()(sql.sql)
app.add_typer(mail.app, name="mail")
app.add_typer(clock.app, name="clock")
app.add_typer(metrics.alarms, name="alarm")
app.command()(metrics.metrics)
app.command()(tokens.token)
app.command()(worker.worker)
app.command()(grants.grants)
app.command()(migrate.migrate)
app.add_typer(synth.app, name="synth")
app.add_typer(deploy.app, name="deploy")
app.command()(deploy.diff)
app.command()(deploy.destroy)
app.command()(smoke.smoke)


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The folder to make, and the app's name.")],
) -> None:
    """Make a folder with a small running app and its passing test."""
    from headwater.cli.scaffold import scaffold

    scaffold(name)


@app.command()
def tour(
    once: Annotated[bool, typer.Option("--once", help="End after the tour; non-zero when a step fails.")] = False,
    database: Annotated[
        str,
        typer.Option(
            "--database",
            metavar="URL",
            help="Play it on PostgreSQL, in a schema of its own that is dropped first: postgresql://USER@HOST/DATABASE.",
        ),
    ] = "",
) -> None:
    """Serve the example apps, play their sample input, and tell what happened."""
    from headwater.cli.tour import tour as play

    raise typer.Exit(play(once, database))


@app.command()
def console(
    store: Store = "",
    env: Env = "",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="HOST:PORT", help="Where it is served; port 0 is a free one.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve the console of a store, whether a server runs on it or not."""
    from headwater.cli.console import serve_console
    from headwater.cli.session import Session

    serve_console(Session(store, env), address)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("headwater"))


def main() -> NoReturn:
    """The console script: errors become two lines and an exit code, never a traceback (but with --debug)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    debug = "--debug" in sys.argv[1:]
    code = exits.OK
    try:
        with command.make_context("headwater", sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except BrokenPipeError:
        exits.end_after_broken_pipe()
    except (typer.Abort, KeyboardInterrupt):
        exits.report("interrupted")
        code = exits.INTERRUPTED
    except (TyperException, exits.UsageError) as error:
        code = _report_usage(error)
    except HeadwaterError as error:
        if debug:
            raise
        code = exits.report_error(error)
    except Exception as error:
        if debug:
            raise
        exits.report(f"{type(error).__name__}: {error}", "this is unexpected; `headwater --debug …` shows where it is")
        code = exits.FAILED
    sys.exit(code)


def _report_usage(error: TyperException | exits.UsageError) -> int:
    """A wrong command line; one without a command has got the help as its answer already."""
    if isinstance(error, exits.UsageError):
        exits.report(error.message, error.hint)
    elif message := error.format_message():
        context = getattr(error, "ctx", None)
        exits.report(message, f"`{context.command_path} --help` shows how it is used" if context else "")
    return exits.USAGE
