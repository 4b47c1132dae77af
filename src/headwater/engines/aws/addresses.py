"""Where the stack's queues and topics are: URLs and ARNs, each asked for once."""

from __future__ import annotations

import os

from headwater.engines.aws.store import Store


class Addresses(Store):
    _urls: dict[str, str]
    _account: str

    def _prepare_addresses(self) -> None:
        self._urls = {}
        self._account = os.environ.get("HEADWATER_ACCOUNT", "")

    async def queue_url(self, queue: str) -> str:
        url = self._urls.get(queue)
        if url is None:
            name = self.names.queue(queue, fifo=self.state.queues[queue].fifo)
            answer = await self.clients.call("sqs", "get_queue_url", QueueName=name)
            url = self._urls[queue] = answer["QueueUrl"]
        return url

    async def queue_arn(self, queue: str) -> str:
        return await self._arn("sqs", self.names.queue(queue, fifo=self.state.queues[queue].fifo))

    async def topic_arn(self, topic: str) -> str:
        return await self._arn("sns", self.names.topic(topic))

    async def role_arn(self, resource: str, kind: str) -> str:
        name = self.names.role(resource, kind)
        return f"arn:{self._partition}:iam::{await self.account()}:role/{name}"

    async def account(self) -> str:
        if not self._account:
            answer = await self.clients.call("sts", "get_caller_identity")
            self._account = str(answer["Account"])
        return self._account

    @property
    def _partition(self) -> str:
        for prefix, partition in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
            if self.clients.region.startswith(prefix):
                return partition
        return "aws"

    async def _arn(self, service: str, name: str) -> str:
        return f"arn:{self._partition}:{service}:{self.clients.region}:{await self.account()}:{name}"
