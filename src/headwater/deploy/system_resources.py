"""Which of Headwater's own tables and queues a stack has: those that AWS has nothing else for, and only if needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.loads import EXPANSIONS, LOADS
from headwater.system import NAME

if TYPE_CHECKING:
    from headwater.deploy.plan import Plan

REPLACED = {
    f"{NAME}/metrics": "CloudWatch has the metrics",
    f"{NAME}/scalings": "Application Auto Scaling decides",
    f"{NAME}/terms": "nothing is left that one process has to do",
    f"{NAME}/places": "a stack's bucket is its own",
    f"{NAME}/erasures": "there is no erasure on AWS",
    f"{NAME}/forgettings": "there is no erasure on AWS",
}
DROPS = f"{NAME}/drops"
_MAIL = frozenset(f"{NAME}/{name}" for name in ("mails", "digests", "folded", "outgoing", "digest-ends"))


def is_kept(plan: Plan, resource: str) -> bool:
    """Whether a table or queue is there on AWS; all of the apps' own are."""
    if not resource.startswith(f"{NAME}/"):
        return True
    if resource in REPLACED:
        return False
    if resource in _MAIL:
        return sends_mail(plan)
    if resource in (LOADS, EXPANSIONS):
        return bool(plan.loaded)
    return resource != DROPS or bool(plan.drops)


def sends_mail(plan: Plan) -> bool:
    return bool(plan.config.alerts) or any(app.mails for app in plan.apps)
