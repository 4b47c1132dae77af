"""`python -m bench [NAME ...] [--json] [--n N]`."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Awaitable, Callable

import msgspec
import uvloop

from bench.backlog import backlog
from bench.console import console
from bench.dataset import dataset
from bench.dataset_reading import reading
from bench.fanout import fanout
from bench.groups import groups
from bench.http import http
from bench.intake import intake, overload
from bench.latency import latency
from bench.operations import operations
from bench.pipeline import changes, pipeline
from bench.remote import remote
from bench.report import Report
from bench.scale import scale

Bench = Callable[..., Awaitable[Report]]
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
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON line each")
    parser.add_argument("--n", type=int, help="how many operations")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no benchmark {unknown.pop()!r}")
    for name in options.names or BENCHES:
        report = uvloop.run(_measured(BENCHES[name], options.n))
        print(_json(report) if options.json else _line(report), flush=True)
    return 0


async def _measured(bench: Bench, n: int | None) -> Report:
    assert inspect.iscoroutinefunction(bench)
    return await (bench(n) if n else bench())


def _json(report: Report) -> str:
    measured = {name: value for name, value in msgspec.structs.asdict(report).items() if value is not None}
    return msgspec.json.encode(measured).decode()


def _line(report: Report) -> str:
    if report.rate_s is None:
        return (
            f"{report.bench:9} p50 {report.p50_ms} ms, p99 {report.p99_ms} ms"
            f" (floor p50 {report.floor_p50_ms} ms), durability {report.durability}"
        )
    return (
        f"{report.bench:9} {report.rate_s:>9,.0f}/s, {report.ratio:.2f} of the floor {report.floor_s:,.0f}/s,"
        f" {report.rss_mb} MB, durability {report.durability}"
    )


if __name__ == "__main__":
    sys.exit(main())
