"""What an app is given while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from headwater.blobs import BlobStore, Uncommitted
from headwater.clock import Clock
from headwater.engine import Engine
from headwater.metrics import Recorder

if TYPE_CHECKING:
    import httpx

    from headwater.http.access import Access
    from headwater.http.limits import Limits
    from headwater.http.opened import Pulling
    from headwater.http.presigned import Presigner
    from headwater.mail import Mailing
    from headwater.permits import RequestPermits
    from headwater.tracing import Tracer
    from headwater.webhooks import Deliverer


class Binding(Protocol):
    """What an app is given while it runs."""

    engine: Engine
    clock: Clock
    limits: Limits
    recorder: Recorder
    uncommitted: Uncommitted

    @property
    def blobs(self) -> BlobStore: ...

    @property
    def presigner(self) -> Presigner: ...

    @property
    def access(self) -> Access: ...

    @property
    def webhooks(self) -> Deliverer: ...

    @property
    def mail(self) -> Mailing: ...

    @property
    def tracer(self) -> Tracer: ...

    @property
    def permits(self) -> RequestPermits: ...

    @property
    def pulls(self) -> Pulling: ...

    def reach(self, app: str) -> tuple[httpx.AsyncBaseTransport | None, str | None]:
        """How to call the app of this name over HTTP: (transport or None for the network, base URL)."""
        ...
