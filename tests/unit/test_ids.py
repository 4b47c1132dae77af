"""Identities: unique, time-ordered, safe between threads."""

from __future__ import annotations

import threading
import time

from headwater.ids import new_id


def test_ids_are_hexadecimal_uuid_7_and_sorted() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert sorted(set(ids)) == ids
    assert all(len(id) == 32 and id[12] == "7" and id[16] in "89ab" for id in ids)
    assert all(int(id, 16) >= 0 and id == id.lower() for id in ids)
    assert abs(int(new_id()[:12], 16) - time.time() * 1000) < 10_000


def test_threads_share_them() -> None:
    found: list[list[str]] = []

    def make() -> None:
        found.append([new_id() for _ in range(5_000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id for ids in found for id in ids}) == 20_000
