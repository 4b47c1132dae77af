"""Admin operations on API keys and their use of usage plans."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from headwater.durations import to_ms
from headwater.errors import InvalidValue, UnknownResource
from headwater.graph import build_graph
from headwater.http.keys import Key, digest_of, environment_part, make_id, make_key
from headwater.runtime.admin_base import AdminBase, time_of
from headwater.runtime.operations import Limit, Name, operation
from headwater.tables import Stored

Role = Annotated[str, msgspec.Meta(pattern=r"^\S+$", max_length=200)]
OVERLAP = "24h"


class KeyOperations(AdminBase):
    @operation(writes=True)
    async def key_create(
        self,
        *,
        name: Name,
        plan: str = "",
        roles: list[Role] | None = None,
        tenant: str = "",
        expires: str | None = None,
        environment: str = "default",
    ) -> dict[str, Any]:
        """Make an API key; the answer is the only one that ever shows it.

        `name` is the caller's subject. `plan` is the usage plan that meters it. `expires` is a duration such as "90d".
        `environment` counts only without a running server, which has its own.
        """
        self._check_plan(plan)
        now_ms = await self.engine.now_ms()
        id, environment = make_id(), self._environment(environment)
        key = make_key(environment, id)
        row = Key(
            id=id,
            name=name,
            digest=digest_of(key),
            environment=environment,
            plan=plan,
            roles=tuple(roles or ()),
            tenant=tenant,
            created_ms=now_ms,
            expires_ms=now_ms + to_ms(expires) if expires else 0,
        )
        await self._install()
        await self.system.keys.put(row, if_absent=True)
        return {**_key_json(row, now_ms), "key": key, "digest": row.digest}

    @operation()
    async def keys(self, *, limit: Limit = 1000) -> dict[str, Any]:
        """API keys, revoked ones too, never the secrets; with a server also those that headwater.toml declares."""
        now_ms = await self.engine.now_ms()
        declared = self.access.keys.declared if self.supervisor else []
        stored = (await self.system.keys.query(limit=limit)).items if await self._installed() else []
        found = [_key_json(key, now_ms) for key in stored]
        found += [{**_key_json(key, now_ms), "declared": True} for key in declared]
        return {"keys": sorted(found, key=lambda key: (key["name"], key["id"]))}

    @operation(writes=True)
    async def key_rotate(self, *, id: Name, overlap: str = OVERLAP) -> dict[str, Any]:
        """Give a key a new secret; the former one is good for `overlap` still. Shows the new key, once."""
        stored = await self._stored_key(id)
        row, now_ms = stored.value, await self.engine.now_ms()
        if row.revoked_ms:
            raise InvalidValue("the key is revoked", operation="key-rotate", resource=id, hint="create a new one")
        key = make_key(row.environment, id)
        rotated = msgspec.structs.replace(
            row, digest=digest_of(key), previous=row.digest, previous_until_ms=now_ms + to_ms(overlap)
        )
        await self.system.keys.put(rotated, if_version=stored.version)
        self._forget(id)
        return {**_key_json(rotated, now_ms), "key": key, "digest": rotated.digest}

    @operation(writes=True)
    async def key_revoke(self, *, id: Name) -> dict[str, Any]:
        """Refuse a key from now on, for good; other processes of the store do so within a second."""
        row, now_ms = (await self._stored_key(id)).value, await self.engine.now_ms()
        if not row.revoked_ms:
            row.revoked_ms = now_ms
            await self.system.keys.update(id, set={"revoked_ms": now_ms})
        self._forget(id)
        return _key_json(row, now_ms)

    @operation()
    async def key_usage(self, *, id: str = "", plan: str = "", limit: Limit = 100) -> dict[str, Any]:
        """Requests counted per key, usage plan and period, newest period first: of one key, of one plan, or all."""
        if not await self._installed():
            return {"usage": []}
        who = f"key:{id} " if id else ""
        rows, cursor = [], None
        while True:
            page = await self.system.usage.query(limit=1000, cursor=cursor)
            rows += [row for row in page.items if row.who.startswith(who) and plan in ("", row.plan)]
            cursor = page.cursor
            if cursor is None:
                break
        pending = self.access.meter.unwritten() if self.supervisor else {}
        counts = {(row.who, row.period, row.plan): row.count for row in rows}
        for place, count in pending.items():
            if place[0].startswith(who) and plan in ("", place[2]):
                counts[place] = counts.get(place, 0) + count
        found = sorted(counts.items(), key=lambda item: (item[0][1], item[0][0]), reverse=True)
        return {"usage": [_usage_json(*place, count) for place, count in found[:limit]]}

    def _environment(self, given: str) -> str:
        return environment_part(self.access.rules.environment if self.supervisor else given)

    def _check_plan(self, plan: str) -> None:
        if plan and self.supervisor and plan not in self.access.rules.plans:
            known = ", ".join(sorted(self.access.rules.plans)) or "none"
            raise InvalidValue(
                f"there is no usage plan {plan!r}",
                operation="key-create",
                hint=f"declared under [plans] in headwater.toml: {known}",
            )

    async def _stored_key(self, id: str) -> Stored[Key]:
        found = await self.system.keys.read(id) if await self._installed() else None
        if found is None:
            raise UnknownResource(
                "there is no API key of this id",
                operation="key",
                resource=id,
                hint="`headwater key ls` lists them; those of headwater.toml are changed there",
            )
        return found

    async def _installed(self) -> bool:
        return self.system.keys.name in (await self.engine.catalog()).tables

    async def _install(self) -> None:
        """The tables may be missing in a store that no server has opened yet."""
        if not await self._installed():
            await self.engine.install(build_graph([self.system.app]).catalog)

    def _forget(self, id: str) -> None:
        if self.supervisor:
            self.access.keys.forget(id)


def _key_json(key: Key, now_ms: int) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "plan": key.plan,
        "roles": list(key.roles),
        "tenant": key.tenant,
        "created": time_of(key.created_ms) if key.created_ms else None,
        "expires": time_of(key.expires_ms) if key.expires_ms else None,
        "revoked": time_of(key.revoked_ms) if key.revoked_ms else None,
        "rotated_until": time_of(key.previous_until_ms) if key.previous_until_ms > now_ms else None,
        "valid": key.valid(now_ms),
        "declared": False,
    }


def _usage_json(who: str, period: str, plan: str, count: int) -> dict[str, Any]:
    """`who` is "key:ID", "token:TENANT:SUBJECT" or "address:ADDRESS"."""
    return {"who": who.rpartition(" ")[0], "plan": plan, "period": period, "count": count}
