"""Calling AWS: clients made when they are first needed, each call in a thread, botocore's errors as Headwater's.

botocore repeats what was throttled or got no answer, with back-off. What still has no answer may have taken effect or
not: `Unanswered`. So whatever is written must bear to be repeated, or be called by `ONCE`.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headwater.errors import HeadwaterError, StoreError, TooLarge, Unavailable

MOST_CALLS = 64
"""How many calls are under way at once; others wait."""
ONCE = "dynamodb/once"
"""The service whose calls are not repeated when there is no answer, for writes that would have a second effect."""
_ATTEMPTS = 5
_CONNECT_S, _READ_S, _POLL_S = 3, 10, 30
_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
    "RequestThrottled",
    "TooManyRequestsException",
    "SlowDown",
    "LimitExceededException",
}
_ABSENT = {
    "ResourceNotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NotFound",
    "NoSuchBucket",
    "NotFoundException",
}
_DENIED = {
    "AccessDeniedException",
    "AccessDenied",
    "AuthorizationError",
    "UnrecognizedClientException",
    "KMSAccessDenied",
}
Answer = dict[str, Any]
_DEPLOY = "deploy the stack: `headwater deploy aws`"
_ROLE = "the role lacks a permission: `headwater grants` prints what the code needs, `uses=` adds to it"


_making = threading.Lock()


@functools.cache
def session() -> Any:
    """Of this process: it reads the models of services once, and the environment for each client."""
    import botocore.session

    return botocore.session.get_session()


class Unanswered(Unavailable):
    """A call got no answer: it may have taken effect."""


class Refused(Exception):
    """An answer that the caller has said to expect: its code, and all of it."""

    def __init__(self, code: str, answer: dict[str, Any]) -> None:
        super().__init__(code)
        self.code = code
        self.answer = answer


class Clients:
    """AWS as this process's environment names it: region, credentials and endpoint."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    async def call(
        self, service: str, operation: str, *, expect: Sequence[str] = (), **arguments: Any
    ) -> dict[str, Any]:
        """The answer to one call, such as `call("dynamodb", "get_item", TableName=…)`.

        Raises `Refused` for an error with an expected code, otherwise one of Headwater's errors.
        """
        work = functools.partial(self.call_now, service, operation, expect=expect, **arguments)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="aws")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def call_now(self, service: str, operation: str, *, expect: Sequence[str] = (), **arguments: Any) -> Answer:
        """As `call`, in this thread."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            answer: Answer = getattr(self._client(service), operation)(**arguments)
            return answer
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in expect:
                raise Refused(code, dict(error.response)) from error
            raise _refusal(error.response, operation, _resource(arguments)) from error
        except (HTTPClientError, BotoCoreError) as error:
            raise _failure(error, operation, _resource(arguments)) from error

    def account(self) -> str:
        """The number of the account. Blocks."""
        return str(self.call_now("sts", "get_caller_identity")["Account"])

    @property
    def region(self) -> str:
        return str(self._client("dynamodb").meta.region_name)

    def _client(self, service: str) -> Any:
        with self._lock:
            client = self._clients.get(service)
            if client is None:
                client = self._clients[service] = self._make(service)
            return client

    def _make(self, service: str) -> Any:
        from botocore.config import Config

        service, _, manner = service.partition("/")
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_POLL_S if service == "sqs" else _READ_S,
            max_pool_connections=MOST_CALLS,
            retries={"mode": "standard", "total_max_attempts": 1 if manner else _ATTEMPTS},
            tcp_keepalive=True,
        )
        try:
            with _making:
                return session().create_client(service, config=config)
        except Exception as error:
            raise _failure(error, "open", service) from error

    def close(self) -> None:
        """End when the calls under way have ended; another call begins anew. Blocks."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()


def _resource(arguments: dict[str, Any]) -> str:
    for name in ("TableName", "QueueUrl", "QueueName", "TopicArn", "Bucket", "StreamArn", "Name"):
        if name in arguments:
            return str(arguments[name]).rpartition("/")[2]
    return ""


def _refusal(response: dict[str, Any], operation: str, resource: str) -> HeadwaterError:
    error = response.get("Error", {})
    code, message = error.get("Code", ""), error.get("Message", "") or error.get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED:
        return Unavailable(f"AWS throttles: {message}", operation=operation, resource=resource)
    if status >= 500:
        return Unanswered(f"{code}: {message}", operation=operation, resource=resource)
    if code in _ABSENT:
        return StoreError(message, operation=operation, resource=resource, hint=_DEPLOY)
    if code in _DENIED:
        return StoreError(message, operation=operation, resource=resource, hint=_ROLE)
    if "size has exceeded" in message or "exceeded the maximum allowed size" in message:
        return TooLarge(message, operation=operation, resource=resource, hint="an item has at most 400 KB on AWS")
    return StoreError(f"{code}: {message}", operation=operation, resource=resource)


def _failure(error: Exception, operation: str, resource: str) -> HeadwaterError:
    """Of what happened before there was an answer."""
    from botocore.exceptions import (
        ConnectTimeoutError,
        EndpointConnectionError,
        HTTPClientError,
        NoCredentialsError,
        NoRegionError,
        ProxyConnectionError,
    )

    if isinstance(error, ConnectTimeoutError | EndpointConnectionError | ProxyConnectionError):
        return Unavailable(str(error), operation=operation, resource=resource)
    if isinstance(error, HTTPClientError):
        return Unanswered(str(error), operation=operation, resource=resource)
    hint = ""
    if isinstance(error, NoRegionError):
        hint = "set AWS_REGION"
    if isinstance(error, NoCredentialsError):
        hint = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return StoreError(str(error), operation=operation, resource=resource, hint=hint)
