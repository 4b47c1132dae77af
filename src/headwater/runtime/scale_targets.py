"""Where a wanted number of workers goes outside of this machine's processes: a command, or a webhook.

Both are told the whole number each time it changes, and again after a failure, so what they do is to be idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

import msgspec
from pydantic import SecretStr

from headwater.clock import Clock
from headwater.codec import encode_json
from headwater.errors import HeadwaterError, TimedOut
from headwater.http.outbound import Outbound, origin_of
from headwater.ids import new_id
from headwater.runtime.autoscaler import Nowhere, Target
from headwater.webhooks import TIMEOUT_S, signed_headers

COMMAND_S = 30.0
SHOWN = 500
"""How much of what a command wrote stands in an error."""


class ScaleRules(msgspec.Struct, frozen=True):
    """Where wanted numbers go: to a command, to a webhook, or, with neither, to the server's own worker processes."""

    command: tuple[str, ...] = ()
    webhook: str = ""
    secret: SecretStr = SecretStr("")


def make_target(rules: ScaleRules, outbound: Outbound, clock: Clock, local: Target | None) -> Target:
    """The target of the rules; `local` are the worker processes, None where the server has none of its own."""
    if rules.command:
        return Command(rules.command)
    if rules.webhook:
        return ScaleWebhook(rules.webhook, rules.secret, outbound, clock)
    return local or Nowhere()


class ScalingFailed(HeadwaterError):
    """The target did not take the number."""


class Command:
    """Runs a program, without a shell; `{queue}` and `{wanted}` in its arguments are filled in."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = tuple(arguments)

    def running(self, queue: str) -> int | None:
        return None

    async def set(self, queue: str, wanted: int) -> None:
        filled = [one.replace("{wanted}", str(wanted)).replace("{queue}", queue) for one in self._arguments]
        try:
            process = await asyncio.create_subprocess_exec(
                *filled,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise self._failed(f"it cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(COMMAND_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise TimedOut(f"no end within {COMMAND_S:g} s", operation="scale", resource=self._arguments[0]) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            shown = said[-SHOWN:].decode("utf-8", "replace").strip()
            raise self._failed(f"it ended with {process.returncode}: {shown}")

    def _failed(self, why: str) -> ScalingFailed:
        return ScalingFailed(why, operation="scale", resource=self._arguments[0], hint="see scale_command")


class ScaleWebhook:
    """POSTs `{"queue", "wanted"}`, signed like all webhooks, over connections that the rules of egress permit."""

    def __init__(self, url: str, secret: SecretStr, outbound: Outbound, clock: Clock) -> None:
        outbound.check(url)
        self._url = url
        self._secret = secret
        self._outbound = outbound
        self._clock = clock

    def running(self, queue: str) -> int | None:
        return None

    async def set(self, queue: str, wanted: int) -> None:
        target = self._outbound.check(self._url)
        body = encode_json({"queue": queue, "wanted": wanted})
        headers = {
            "content-type": "application/json",
            "user-agent": "Headwater",
            "accept-encoding": "identity",
            **signed_headers(new_id(), self._clock.wall_ms() // 1000, body, self._secret),
        }
        answer = await self._outbound.post(target, headers, body, timeout_s=TIMEOUT_S)
        if not 200 <= answer.status < 300:
            raise ScalingFailed(f"answered {answer.status}", operation="POST", resource=origin_of(target))
