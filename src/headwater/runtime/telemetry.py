"""Spans for OpenTelemetry: sent by its own OTLP/HTTP exporter, from a thread of its own.

The SDK is an extra and is imported only where it is used. Its tracer is not: our spans are finished when they come
here. No global provider is set, so that what an app does with OpenTelemetry itself stays the app's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headwater.errors import DeclarationError
from headwater.tracing import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CLOSE_S = 3.0
"""How long a stop waits for the last spans to be sent."""


def make_exporter(base_url: str, environ: Mapping[str, str] | None = None) -> OtlpExporter | None:
    """The exporter to the collector at the URL, or where OpenTelemetry's own variables say; None without any.

    Raises `DeclarationError` when the extra is not installed.
    """
    variables = os.environ if environ is None else environ
    told = next((name for name in ENDPOINTS if variables.get(name)), "")
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (base_url or told):
        return None
    try:
        return OtlpExporter(f"{base_url.rstrip('/')}/v1/traces" if base_url else None)
    except ImportError as error:
        raise DeclarationError(
            "spans are to be exported, but OpenTelemetry is not installed",
            operation="configure",
            resource="otlp" if base_url else told,
            hint="pip install headwater[otel]",
        ) from error


class OtlpExporter:
    """Batches spans and sends them (`runtime.spans.Exporter`). With `endpoint` None the SDK's variables say where."""

    def __init__(self, endpoint: str | None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint))
        self._resources: dict[str, Resource] = {}

    def export(self, span: Span) -> None:
        """Never waits: what the collector does not take in time is dropped, and OpenTelemetry logs it."""
        self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what is left, for `CLOSE_S` at the most."""
        closing = threading.Thread(target=self._processor.shutdown, name="otlp close", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(id: str, *, is_remote: bool) -> SpanContext:
            return SpanContext(int(span.trace, 16), int(id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))

        kinds = {"request": SpanKind.SERVER, "attempt": SpanKind.CONSUMER, "call": SpanKind.CLIENT}
        start_ns = span.start_ms * 1_000_000
        failed = Status(StatusCode.ERROR, span.error or None)
        return ReadableSpan(
            name=f"process {_queue(span)}" if span.kind == "attempt" else span.name,
            context=context(span.id, is_remote=False),
            parent=context(span.parent, is_remote=span.kind in ("request", "attempt")) if span.parent else None,
            resource=self._resource(span.app),
            attributes=attributes_of(span),
            kind=kinds.get(span.kind, SpanKind.INTERNAL),
            status=failed if span.outcome == "failed" else Status(),
            start_time=start_ns,
            end_time=start_ns + span.duration_us * 1000,
            instrumentation_scope=InstrumentationScope("headwater", version("headwater")),
        )

    def _resource(self, app: str) -> Resource:
        from opentelemetry.sdk.resources import Resource

        if app not in self._resources:
            self._resources[app] = Resource.create({"service.name": app})
        return self._resources[app]


def attributes_of(span: Span) -> dict[str, Any]:
    """A span as OpenTelemetry's semantic conventions name it."""
    found: dict[str, Any] = {}
    method, _, rest = span.name.partition(" ")
    if span.kind in ("request", "call"):
        found["http.request.method"] = method
        if span.status:
            found["http.response.status_code"] = span.status
    if span.kind == "request":
        found |= {"http.route": rest, "url.path": span.of.partition(" ")[2]}
    elif span.kind == "call":
        url = urlsplit(span.of)
        found |= {"server.address": url.hostname or "", "server.port": url.port or _PORTS.get(url.scheme, 0)}
        found["peer.service"] = rest
    elif span.kind == "attempt":
        found |= {
            "messaging.system": "headwater",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": _queue(span),
            "messaging.message.id": span.of,
            "headwater.handler": span.name,
            "headwater.receive": span.attempt,
        }
        if span.events > 1:
            found["messaging.batch.message_count"] = span.events
    if span.outcome != "ok":
        found["headwater.outcome"] = span.outcome
    if span.outcome == "failed":
        found["error.type"] = span.error.partition(":")[0] or str(span.status)
    return found


_PORTS = {"http": 80, "https": 443}


def _queue(span: Span) -> str:
    return span.of.partition("/")[2]
