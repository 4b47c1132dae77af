"""Conditions of alarms as they are written, and the alarms that Headwater has by itself."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from headwater.durations import Duration, to_ms
from headwater.errors import DeclarationError
from headwater.metrics import MINUTE_MS, MetricName
from headwater.thresholds import MAX_WINDOW, Condition, Missing


def condition_of(
    name: str,
    *,
    above: float | None,
    below: float | None,
    for_: Duration | None,
    datapoints: tuple[int, int] | None,
    missing: Missing,
) -> Condition:
    """The condition that `app.alarm` was given; raises `DeclarationError` for what cannot be."""
    threshold = below if above is None else above
    if threshold is None or (above is not None and below is not None):
        raise _wrong(name, "give above= or below=, one of them")
    if missing not in ("ok", "bad", "ignore"):
        raise _wrong(name, f'missing= is "ok", "bad" or "ignore", not {missing!r}')
    wanted, window = datapoints or (0, 0)
    if for_ is not None:
        minutes, rest = divmod(to_ms(for_, place="for_"), MINUTE_MS)
        if rest or minutes < 1:
            raise _wrong(name, "for_= is in whole minutes: there is one datapoint a minute")
        if datapoints is not None and minutes != window:
            raise _wrong(name, f"for_= has {minutes} minutes, datapoints= is of {window}")
        wanted, window = wanted or minutes, minutes
    if datapoints is None and for_ is None:
        wanted = window = 1
    if not 1 <= wanted <= window <= MAX_WINDOW:
        raise _wrong(name, f"datapoints=(m, n) means m of the last n minutes, 1 ≤ m ≤ n ≤ {MAX_WINDOW}")
    return Condition(threshold=threshold, below=above is None, datapoints=wanted, window=window, missing=missing)


def _wrong(name: str, why: str) -> DeclarationError:
    return DeclarationError(why, operation="declare alarm", resource=name)


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"for_": "for"}):
    """What `[….alarms]` in `headwater.toml` says of a built-in alarm; what it leaves out stays as it is."""

    above: float | str | None = None
    for_: str | None = None
    datapoints: tuple[int, int] | None = None
    ignore: tuple[str, ...] = ()


class BuiltIn(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm of Headwater's own on each queue, but those in `ignore`."""

    name: str
    metric: MetricName
    condition: Condition
    ignore: frozenset[str] = frozenset()


_BUILT_IN = (
    BuiltIn(name="dead-letters", metric="dead_letters", condition=Condition(threshold=0)),
    BuiltIn(name="oldest-message", metric="oldest_age", condition=Condition(threshold=3600)),
    BuiltIn(
        name="handler-failing",
        metric="error_rate",
        condition=Condition(threshold=0.49, datapoints=3, window=5, missing="ignore"),
    ),
    BuiltIn(name="queue-full", metric="depth", condition=Condition(threshold=0)),
    BuiltIn(name="no-consumer", metric="depth", condition=Condition(threshold=0)),
)


def built_in_alarms(tuned: Mapping[str, bool | Tuning]) -> list[BuiltIn]:
    """The built-in alarms that are on, tuned. Raises `DeclarationError` naming the setting that is wrong."""
    if unknown := set(tuned) - {alarm.name for alarm in _BUILT_IN}:
        raise DeclarationError(
            f"alarms: there is no built-in alarm {min(unknown)!r} to tune",
            hint=f"there are {', '.join(alarm.name for alarm in _BUILT_IN)}",
        )
    chosen = []
    for alarm in _BUILT_IN:
        how = tuned.get(alarm.name, True)
        if isinstance(how, Tuning):
            chosen.append(_tuned(alarm, how))
        elif how:
            chosen.append(alarm)
    return chosen


def _tuned(alarm: BuiltIn, how: Tuning) -> BuiltIn:
    before = alarm.condition
    above = how.above
    if isinstance(above, str):
        above = to_ms(above, place=f"alarms.{alarm.name}.above") / 1000
    ours = how.for_ is None and how.datapoints is None
    condition = condition_of(
        f"alarms.{alarm.name}",
        above=before.threshold if above is None else above,
        below=None,
        for_=how.for_,
        datapoints=(before.datapoints, before.window) if ours else how.datapoints,
        missing=before.missing,
    )
    return msgspec.structs.replace(alarm, condition=condition, ignore=frozenset(how.ignore))
