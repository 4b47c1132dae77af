"""Services: HTTP clients for other apps and third parties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headwater.errors import DeclarationError
from headwater.late import Late, resolve
from headwater.operations.pace import Pace
from headwater.permits import Guarded, guard

if TYPE_CHECKING:
    import httpx

    from headwater.app import App

DEFAULT_TIMEOUT_S = 10.0


class Service(Guarded):
    """Declared by `app.service`; without a base URL it is the app of that name, wherever it is served.

    Requests made in a unit of work carry its trace, so that what they lead to hangs on the same tree. They happen
    at once and are not undone when the unit is: hand `event.idempotency_key` to services that take one.
    """

    kind = "service"

    def __init__(self, app: App[Any], name: str, base_url: str | Late[str] | None) -> None:
        self.app = app
        self.name = name
        self.pace = Pace()
        self._base_url = base_url
        self._client: httpx.AsyncClient | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """One client for the time that the app runs; its base URL is the service's."""
        guard(self, "call")
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> httpx.AsyncClient:
        from headwater.calls import TracedClient
        from headwater.connections import transport_for_services

        binding = self.app.binding
        transport, url = binding.reach(self.name)
        transport = transport or transport_for_services()
        if self._base_url is not None:
            url = resolve(self._base_url, self.app)
        if url is None:
            raise DeclarationError(
                "it has no base URL and no app of this name runs here",
                operation="service",
                resource=self.name,
                hint=f'set base_url=, or `{self.name} = "http://…"` under [services] in headwater.toml',
            )
        return TracedClient(self.app, self.name, base_url=url, transport=transport, timeout=DEFAULT_TIMEOUT_S)

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()
