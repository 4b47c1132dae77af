"""X-Ray's trace header and our traces: the same 32 digits, written differently.

X-Ray writes "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1". Without its version and
dashes the root is a trace of W3C trace context (OpenTelemetry does the same), and so is ours.
"""

from __future__ import annotations

import re

from headwater.tracing import TraceContext

VARIABLE = "_X_AMZN_TRACE_ID"
"""Where Lambda puts the header of each event."""
_ROOT = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_SPAN = re.compile(r"[0-9a-f]{16}")
_NO_SPAN = "0" * 16


def read_xray(header: str) -> TraceContext | None:
    """The trace that a header names; None when it names none. Without a parent the span is made of the trace."""
    parts = dict(part.strip().partition("=")[::2] for part in header.split(";"))
    root = _ROOT.fullmatch(parts.get("Root", ""))
    if root is None or not int(root[2], 16):
        return None
    trace, parent = root[1] + root[2], parts.get("Parent", "")
    span = parent if _SPAN.fullmatch(parent) and parent != _NO_SPAN else trace[16:]
    return TraceContext(trace, span, parts.get("Sampled") == "1")


def write_xray(trace: str, span: str, *, sampled: bool) -> str:
    return f"Root=1-{trace[:8]}-{trace[8:]};Parent={span};Sampled={int(sampled)}"
