"""Who may act as a role."""

from __future__ import annotations

from headwater.deploy.model import Statement
from headwater.deploy.plan import Plan


def trusts(plan: Plan, service: str, *, own: bool = True) -> Statement:
    """A service, on behalf of this account alone where it says so."""
    return Statement(
        principal=("Service", (service,)),
        actions=("sts:AssumeRole",),
        resources=(),
        conditions={"StringEquals": {"aws:SourceAccount": "${account}"}} if own else {},
    )
