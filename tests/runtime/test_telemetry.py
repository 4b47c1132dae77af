"""Export to OpenTelemetry, received by a real HTTP server and read as protobuf."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from pydantic import BaseModel

from headwater import App, DeclarationError, Event
from headwater.engines import make_engine
from headwater.objects import make_blobs
from headwater.runtime.supervisor import Supervisor
from headwater.runtime.telemetry import OtlpExporter, attributes_of, make_exporter
from headwater.testing import VirtualClock
from headwater.tracing import Span
from tests.patience import PATIENCE_S
from tests.runtime.otlp_receiver import Collector
from tests.runtime.otlp_receiver import attributes_of as received_attributes

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Row(BaseModel):
    id: str


def make_shop() -> App[None]:
    app = App("shop")
    jobs = app.queue("jobs", Row, max_receives=1)

    @app.on(jobs)
    async def work(event: Event[Row]) -> None:
        if event.data.id == "bad":
            raise ValueError("it is bad")

    @app.http.post("/jobs/{id}")
    async def send(id: str) -> None:
        await jobs.send(Row(id=id))

    return app


async def test_spans_arrive_with_their_names_and_parents(tmp_path: Path) -> None:
    import httpx

    with Collector() as collector:
        app, clock = make_shop(), VirtualClock()
        supervisor = Supervisor(
            [app],
            make_engine(f"sqlite:{tmp_path}", clock=clock),
            clock,
            upkeep=False,
            blobs=make_blobs(str(tmp_path / "objects")),
            trace_sample=1.0,
            exporter=make_exporter(collector.url, {}),
        )
        await supervisor.start()
        await supervisor.serve()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app.http), base_url="http://shop") as client:
            await client.post("/jobs/good", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
            await client.post("/jobs/bad")
        await supervisor.stop(5)
    assert set(collector.paths) == {"/v1/traces"}
    spans = collector.spans()
    assert {service for service, _ in spans} == {"shop"}
    assert len(spans) == 4
    (request,) = [s for _, s in spans if s.trace_id.hex() == TRACE and s.kind == Exported.SPAN_KIND_SERVER]
    (attempt,) = [s for _, s in spans if s.trace_id.hex() == TRACE and s.kind == Exported.SPAN_KIND_CONSUMER]
    (failed,) = [s for _, s in spans if s.status.code == Status.STATUS_CODE_ERROR]
    assert (request.name, request.parent_span_id.hex()) == ("POST /jobs/{id}", CALLER)
    told = received_attributes(request)
    assert (told["http.request.method"], told["http.route"], told["url.path"]) == ("POST", "/jobs/{id}", "/jobs/good")
    assert told["http.response.status_code"] == 200
    assert (attempt.name, attempt.parent_span_id) == ("process shop/jobs", request.span_id)
    told = received_attributes(attempt)
    assert told["messaging.system"] == "headwater"
    assert told["messaging.destination.name"] == "shop/jobs"
    assert told["messaging.operation.type"] == "process"
    assert told["messaging.message.id"].endswith("/shop/jobs")
    assert attempt.start_time_unix_nano == clock.wall_ms() * 1_000_000
    assert failed.status.message == "ValueError: it is bad"
    assert received_attributes(failed)["error.type"] == "ValueError"


def test_calls_name_the_server_and_no_path() -> None:
    span = Span(
        trace=TRACE, id=CALLER, kind="call", name="GET vendor", app="shop", of="https://vendor.test", status=503
    )
    span.outcome = "failed"
    assert attributes_of(span) == {
        "http.request.method": "GET",
        "http.response.status_code": 503,
        "server.address": "vendor.test",
        "server.port": 443,
        "peer.service": "vendor",
        "headwater.outcome": "failed",
        "error.type": "503",
    }


def test_the_variables_of_opentelemetry_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_exporter("", {}) is None
    assert make_exporter("http://127.0.0.1:1", {"OTEL_SDK_DISABLED": "true"}) is None
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        exporter = make_exporter("")
        assert isinstance(exporter, OtlpExporter)
        exporter.export(Span(trace=TRACE, id=CALLER, kind="request", name="GET /", app="shop", start_ms=1))
        exporter.close()
    assert collector.paths == ["/v1/traces"]


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(DeclarationError) as told:
        make_exporter("http://127.0.0.1:4318", {})
    assert told.value.hint == "pip install headwater[otel]"
    assert told.value.resource == "otlp"


def test_a_collector_that_is_down_delays_a_stop_by_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.runtime.telemetry.CLOSE_S", 0.2)
    exporter = make_exporter("http://127.0.0.1:1", {})
    assert exporter is not None
    exporter.export(Span(trace=TRACE, id=CALLER, kind="request", name="GET /", app="shop", start_ms=1))
    begun = time.monotonic()
    exporter.close()
    assert time.monotonic() - begun < 30


def test_the_sdk_is_not_loaded_without_need(tmp_path: Path) -> None:
    import subprocess

    code = "import sys, headwater.runtime.server; print('opentelemetry.sdk' in sys.modules)"
    ended: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert ended.stdout == "False\n"
