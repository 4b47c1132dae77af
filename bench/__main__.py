"""`python -m bench [NAME ...] [--engine postgres] [--store URL] [--json] [--n N]`."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop

from bench.backlog import backlog
from bench.coldstart import coldstart
from bench.console import console
from bench.consoles import consoles
from bench.dataset import dataset
from bench.dataset_reading import reading
from bench.fanout import fanout
from bench.groups import groups
from bench.http import http
from bench.intake import intake, overload
from bench.latency import latency
from bench.operations import operations
from bench.pipeline import changes, pipeline
from bench.pressure import pressure
from bench.remote import remote
from bench.report import Report
from bench.scale import scale
from bench.stores import postgres, postgres_at
from headwater.runtime.logs import configure_logs

Bench = Callable[..., Awaitable[Report | list[Report]]]
BENCHES: dict[str, Bench] = {
    fn.__name__: fn
    for fn in (
        pipeline,
        changes,
        latency,
        fanout,
        backlog,
        http,
        intake,
        overload,
        reading,
        dataset,
        operations,
        remote,
        groups,
        scale,
        console,
        coldstart,
        consoles,
    )
}
POSTGRES: dict[str, Bench] = {
    fn.__name__: fn for fn in (pipeline, changes, latency, fanout, backlog, dataset, groups, pressure)
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    known = ", ".join(BENCHES | POSTGRES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {known} (default: all of the engine's)")
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--store", help="the URL of a PostgreSQL server (default: one is started, on this disk)")
    parser.add_argument("--json", action="store_true", help="one JSON line each")
    parser.add_argument("--n", type=int, help="how many operations")
    options = parser.parse_args()
    on_postgres = options.engine == "postgres" or options.store is not None
    benches = POSTGRES if on_postgres else BENCHES
    if unknown := set(options.names) - set(benches):
        parser.error(f"no benchmark {unknown.pop()!r} on {'PostgreSQL' if on_postgres else 'SQLite'}")
    given: dict[str, Any] = {"n": options.n} if options.n else {}
    if on_postgres:
        given["setting"] = postgres_at(options.store) if options.store else postgres
    configure_logs(lowest="warning")
    for name in options.names or benches:
        for report in uvloop.run(_measured(benches[name], given)):
            print(_json(report) if options.json else _line(report), flush=True)
    return 0


async def _measured(bench: Bench, given: dict[str, Any]) -> list[Report]:
    assert inspect.iscoroutinefunction(bench)
    found = await bench(**given)
    return found if isinstance(found, list) else [found]


def _json(report: Report) -> str:
    measured = {name: value for name, value in msgspec.structs.asdict(report).items() if value is not None}
    return msgspec.json.encode(measured).decode()


def _line(report: Report) -> str:
    if report.rate_s is None:
        which = f" {report.details['function']}" if "function" in report.details else ""
        return (
            f"{report.bench + which:9} p50 {report.p50_ms} ms, p99 {report.p99_ms} ms"
            f" (floor p50 {report.floor_p50_ms} ms), durability {report.durability}"
        )
    return (
        f"{report.bench:9} {report.rate_s:>9,.0f}/s, {report.ratio:.2f} of the floor {report.floor_s:,.0f}/s,"
        f" {report.rss_mb} MB, durability {report.durability}"
    )


if __name__ == "__main__":
    sys.exit(main())
