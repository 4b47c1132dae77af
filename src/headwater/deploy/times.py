"""Schedules of a stack: each calls the function that emits its ticks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from headwater.cron import Every, parse_schedule
from headwater.deploy.model import Resource, Role, Schedule, ScheduleGroup, Statement
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.deploy.trust import trusts
from headwater.errors import DeclarationError
from headwater.schedules import Schedule as Declared
from headwater.schedules import ScheduleSpec

MINUTE_MS = 60_000
_UNITS = ((86_400_000, "day"), (3_600_000, "hour"), (MINUTE_MS, "minute"))
_AWS = re.compile(r"(cron|at)\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def schedules(plan: Plan) -> Iterator[Resource]:
    """A group for all, which also has the one-time schedules of messages that are delayed for long."""
    yield ScheduleGroup(id=plan.id(SYSTEM, "ScheduleGroup"), name=plan.stack)
    yield from _delays(plan)
    declared = sorted((one for app in plan.apps for one in app.schedules.values()), key=lambda one: one.name)
    if declared:
        yield _caller(plan)
    for schedule in declared:
        yield _schedule(plan, schedule)


def _delays(plan: Plan) -> Iterator[Resource]:
    """Who a one-time schedule acts as: it may send to the queues, and nothing else."""
    standard = [plan.queue_arn(name) for name in plan.queues]
    send = Statement(actions=("sqs:SendMessage",), resources=tuple(sorted(standard)))
    yield Role(
        id=plan.id(SYSTEM, "DelaysRole"),
        name=plan.names.role(SYSTEM, "delays"),
        trust=(trusts(plan, "scheduler.amazonaws.com"),),
        statements=(send,),
    )


def _caller(plan: Plan) -> Role:
    unit = Unit(SYSTEM, "tick")
    live = ":live" if plan.settings_of(unit).provisioned else ""
    return Role(
        id=plan.id(SYSTEM, "ScheduleRole"),
        name=plan.names.role(SYSTEM, "schedule"),
        trust=(trusts(plan, "scheduler.amazonaws.com"),),
        statements=(Statement(actions=("lambda:InvokeFunction",), resources=(plan.function_arn(unit) + live,)),),
    )


def _schedule(plan: Plan, declared: Declared) -> Schedule:
    spec = declared.spec()
    try:
        expression = to_aws(spec)
    except DeclarationError as error:
        error.operation, error.resource = "synth", declared.name
        raise
    tick = {"schedule": declared.name, "nominal": "<aws.scheduler.scheduled-time>"}
    return Schedule(
        id=plan.id(declared.name, "Schedule"),
        name=plan.names.schedule(declared.name),
        group=plan.stack,
        expression=expression,
        zone=spec.tz,
        target=plan.target_of(Unit(SYSTEM, "tick")),
        role=f"${{{plan.id(SYSTEM, 'ScheduleRole')}.arn}}",
        input=json.dumps(tick, sort_keys=True, separators=(",", ":")),
        description=f"{declared.name}: {spec.timetable().words}",
        after=(plan.id(SYSTEM, "ScheduleGroup"),),
    )


def to_aws(spec: ScheduleSpec) -> str:
    """The expression in EventBridge Scheduler's language. Raises `DeclarationError` for what that cannot say."""
    timetable = parse_schedule(spec.when, spec.tz)
    if isinstance(timetable, Every):
        return _rate(timetable.period_ms)
    if found := _AWS.fullmatch(spec.when.strip()):
        return f"{found[1].lower()}({' '.join(found[2].split()).upper()})"
    return _cron(spec.when)


def _rate(period_ms: int) -> str:
    if period_ms % MINUTE_MS:
        raise DeclarationError("AWS counts in whole minutes", hint='take "1m" or more')
    size, unit = next(found for found in _UNITS if period_ms % found[0] == 0)
    number = period_ms // size
    return f"rate({number} {unit}{'' if number == 1 else 's'})"


def _cron(five: str) -> str:
    """Six fields of five: the year, "?" for one of the days, days of the week by name."""
    minute, hour, day, month, weekday = five.upper().split()
    if day != "*" and weekday != "*":
        raise DeclarationError(
            "AWS takes a day of the month or a day of the week, not both", hint="write a schedule for each"
        )
    if weekday == "*":
        return f"cron({minute} {hour} {day} {month} ? *)"
    return f"cron({minute} {hour} ? {month} {_weekdays(weekday)} *)"


def _weekdays(field: str) -> str:
    """Cron counts from 0 (Sunday) to 7 (Sunday), AWS from 1 (Sunday): names mean the same."""
    if "/" in field:
        raise DeclarationError("AWS has no steps of days of the week", hint="name the days: mon,wed,fri")
    return re.sub(r"(?<![A-Z0-9#])[0-7](?![0-9])", lambda found: _DAYS[int(found[0]) % 7], field)
