"""Alarms of a stack: Headwater's own on each queue and on the relay, and those that apps declare.

Missing data is good data: a queue without messages says nothing. The figures of queues are SQS's; what only Headwater
knows its functions write as metrics of the name space "Headwater", with the dimensions `Stack` and `Queue`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headwater.alarms import AlarmSource
from headwater.deploy.messages import LOST, WATCH, inbox_name, lost_name, topic_id
from headwater.deploy.model import Alarm, Figure, Parameter, Resource
from headwater.deploy.plan import SYSTEM, Plan, Unit
from headwater.errors import DeclarationError
from headwater.metrics import Metric
from headwater.thresholds import Condition
from headwater.tuning import BuiltIn, built_in_alarms

NAMESPACE = "Headwater"
_MISSING = {"ok": "notBreaching", "bad": "breaching", "ignore": "ignore"}
LATE_MS = 300_000
"""How far a stream's function may be behind."""


def alarms(plan: Plan) -> Iterator[Resource]:
    tuned = {alarm.name: alarm for alarm in built_in_alarms(plan.config.alarms)}
    for name in plan.queues:
        for kind in ("dead-letters", "oldest-message"):
            if (alarm := tuned.get(kind)) and name not in alarm.ignore:
                yield _on_queue(plan, name, alarm)
    yield from _on_relay(plan)
    yield from _on_functions(plan)
    for source in plan.alarm_sources:
        yield _declared(plan, source)


def alarm_parameters(plan: Plan) -> Iterator[Parameter]:
    yield Parameter(
        id="AlarmEmail",
        description="Who is mailed about alarms; nobody without an address",
        default=plan.aws.alarm_email,
    )


def _alarm(plan: Plan, name: str, described: str, figures: tuple[Figure, ...], **more: object) -> Alarm:
    condition = more.pop("condition")
    assert isinstance(condition, Condition)
    return Alarm(
        id=plan.id(name, "Alarm"),
        name=f"{plan.stack}-{name.replace('/', '-')}",
        description=described,
        figures=figures,
        threshold=condition.threshold,
        below=condition.below,
        datapoints=condition.datapoints,
        periods=condition.window,
        missing=_MISSING[condition.missing],  # type: ignore[arg-type]
        topic=f"${{{topic_id(plan, WATCH)}.arn}}",
        enabled=plan.aws.alarms,
        **more,  # type: ignore[arg-type]
    )


def _on_queue(plan: Plan, queue: str, alarm: BuiltIn) -> Alarm:
    figures, expression = _queue_figures(plan, queue, alarm.metric)
    said = {"dead-letters": "has dead letters", "oldest-message": "has a message that waits for too long"}
    return _alarm(
        plan,
        f"{queue}/{alarm.name}",
        f"headwater:{alarm.name}:{queue}: the queue {said[alarm.name]}",
        figures,
        expression=expression,
        condition=alarm.condition,
    )


def _sqs(name: str, metric: str, statistic: str = "Maximum", part: str = "") -> Figure:
    return Figure(namespace="AWS/SQS", metric=metric, dimensions={"QueueName": name}, statistic=statistic, name=part)


def _ours(plan: Plan, metric: str, statistic: str, part: str = "", **dimensions: str) -> Figure:
    return Figure(
        namespace=NAMESPACE,
        metric=metric,
        dimensions={"Stack": plan.stack, **dimensions},
        statistic=statistic,
        name=part,
    )


def _queue_figures(plan: Plan, queue: str, metric: str) -> tuple[tuple[Figure, ...], str]:
    """The figures of a queue's metric, and how they make one number."""
    fifo = plan.catalog.queues[queue].fifo
    name, dead = plan.names.queue(queue, fifo=fifo), plan.names.dead_queue(queue, fifo=fifo)
    match metric:
        case "oldest_age":
            return (_sqs(name, "ApproximateAgeOfOldestMessage"),), ""
        case "depth":
            waiting = _sqs(name, "ApproximateNumberOfMessagesVisible", part="waiting")
            handled = _sqs(name, "ApproximateNumberOfMessagesNotVisible", part="handled")
            delayed = _sqs(name, "ApproximateNumberOfMessagesDelayed", part="delayed")
            return (waiting, handled, delayed), "waiting + handled + delayed"
        case "dead_letters":
            given_up = _sqs(dead, "ApproximateNumberOfMessagesVisible", part="given_up")
            buried = _ours(plan, "dead_letters", "Sum", "buried", Queue=queue)
            return (given_up, buried), "FILL(given_up, 0) + FILL(buried, 0)"
        case "error_rate":
            failed = _ours(plan, "failures", "Sum", "failed", Queue=queue)
            tried = _ours(plan, "attempts", "Sum", "tried", Queue=queue)
            return (failed, tried), "FILL(failed, 0) / tried"
        case "sent":
            return (_sqs(name, "NumberOfMessagesSent", "Sum"),), ""
        case "in_flight":
            return (_sqs(name, "ApproximateNumberOfMessagesNotVisible"),), ""
        case "delayed":
            return (_sqs(name, "ApproximateNumberOfMessagesDelayed"),), ""
    return (_ours(plan, *_statistic(metric), Queue=queue),), ""


def _statistic(metric: str) -> tuple[str, str]:
    """The figure and its statistic: durations are written as they are, all else is counted."""
    name, separator, percent = metric.partition("_p")
    return (name, f"p{percent}") if separator else (metric, "Sum")


def _on_relay(plan: Plan) -> Iterator[Alarm]:
    relay = plan.function_name(Unit(SYSTEM, "relay"))
    behind = Figure(
        namespace="AWS/Lambda", metric="IteratorAge", dimensions={"FunctionName": relay}, statistic="Maximum"
    )
    told = "headwater:relay-behind:headwater/relay: events do not reach their queues"
    yield _alarm(plan, f"{SYSTEM}/relay-behind", told, (behind,), condition=Condition(threshold=LATE_MS))
    lost = _sqs(lost_name(plan), "ApproximateNumberOfMessagesVisible")
    told = "headwater:events-lost:headwater/lost: AWS gave up what functions had failed for"
    yield _alarm(plan, LOST, told, (lost,), condition=Condition(threshold=0))
    for topic in sorted(plan.imports):
        dead = _sqs(inbox_name(plan, topic), "ApproximateAgeOfOldestMessage")
        told = f"headwater:oldest-message:{topic}: messages of another stack wait"
        yield _alarm(plan, f"{topic}/inbox", told, (dead,), condition=Condition(threshold=3600))


def _on_functions(plan: Plan) -> Iterator[Alarm]:
    """Errors of a function are those that Headwater could not deal with itself."""
    for unit in plan.own_functions:
        errors = Figure(
            namespace="AWS/Lambda",
            metric="Errors",
            dimensions={"FunctionName": plan.function_name(unit)},
            statistic="Sum",
        )
        told = f"headwater:function-failing:{unit.setting}: the function fails"
        condition = Condition(threshold=0, datapoints=3, window=5)
        yield _alarm(plan, f"{unit.setting}/failing", told, (errors,), condition=condition)


def _declared(plan: Plan, source: AlarmSource) -> Alarm:
    figures, expression = _metric_figures(plan, source.metric, source.name)
    told = f"headwater:declared:{source.name}: {source.metric.name} of {source.metric.of}"
    return _alarm(plan, source.name, told, figures, expression=expression, condition=source.condition)


def _metric_figures(plan: Plan, metric: Metric, alarm: str) -> tuple[tuple[Figure, ...], str]:
    if metric.of in plan.catalog.queues:
        return _queue_figures(plan, metric.of, metric.name)
    if plan.serves_http:
        if metric.name == "error_rate":
            failed = _ours(plan, "errors", "Sum", "failed", Endpoint=metric.of)
            asked = _ours(plan, "requests", "Sum", "asked", Endpoint=metric.of)
            return (failed, asked), "FILL(failed, 0) / asked"
        return (_ours(plan, *_statistic(metric.name), Endpoint=metric.of),), ""
    raise DeclarationError(
        f"CloudWatch has nothing about {metric.name} of {metric.of}", operation="synth", resource=alarm
    )
