"""Buckets as declarations, and the pure parts around blobs."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from headwater import App, DeclarationError
from headwater.blobs import Uncommitted, blob_id, time_of_blob
from headwater.buckets import BY_BLOB, MAX_SIZE
from headwater.config import load_config
from headwater.objects import Measure, make_blobs, shard_of


def test_a_bucket_is_a_table_of_its_objects_that_is_marked() -> None:
    app = App("shop")
    bucket = app.bucket("uploads", versions=True, expire="1d")
    assert {"shop/uploads", "shop/uploads.gone", "shop/uploads.versions"} == set(app.tables)
    assert all(table.spec.bucket for table in app.tables.values())
    assert bucket.table.spec.ttl_ms == 86_400_000
    referring = {name for name, table in app.tables.items() if any(i.name == BY_BLOB for i in table.spec.indexes)}
    assert referring == {"shop/uploads", "shop/uploads.versions"}


def test_other_tables_are_not_marked() -> None:
    app = App("shop")
    assert not app.table("items", dict, key="id").spec.bucket


def test_a_name_is_taken_once() -> None:
    app = App("shop")
    app.bucket("uploads")
    for declare in (app.bucket, app.topic):
        with pytest.raises(DeclarationError, match="taken"):
            declare("uploads")


@pytest.mark.parametrize("max_size", [0, -1, MAX_SIZE + 1])
def test_a_size_must_be_possible(max_size: int) -> None:
    with pytest.raises(DeclarationError, match="max_size"):
        App("shop").bucket("uploads", max_size=max_size)


def test_an_app_that_does_not_run_has_no_objects() -> None:
    bucket = App("shop").bucket("uploads")
    with pytest.raises(DeclarationError, match="not running"):
        _ = bucket._blobs


def test_the_id_of_a_blob_tells_its_time_and_is_unique() -> None:
    ids = [blob_id(1_234_567) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {time_of_blob(id) for id in ids} == {1_234_567}


@pytest.mark.parametrize("name", ["", "owner", "x" * 32, "0" * 31, "A" * 32, "0" * 33])
def test_other_names_are_no_ids_of_blobs(name: str) -> None:
    assert time_of_blob(name) is None


def test_ids_of_one_moment_spread_over_the_folders() -> None:
    assert len({shard_of(blob_id(1)) for _ in range(2000)}) > 200


def test_a_blob_is_held_while_its_holder_lives_and_is_open() -> None:
    class Unit:
        closed = False

    held, closing, dying = Uncommitted(), Unit(), Unit()
    held.hold(closing, "a")
    held.hold(closing, "b")
    held.hold(dying, "c")
    assert held.ids() == {"a", "b", "c"}
    closing.closed = True
    assert held.ids() == {"c"}
    del dying
    gc.collect()
    assert held.ids() == set()


def test_a_measure_counts_and_hashes() -> None:
    measure = Measure(3, "")
    measure.add(b"ab")
    measure.add(b"c")
    assert measure.finish("id").size == 3


@pytest.mark.parametrize("url", ["/a/b", "file:///a/b"])
def test_a_folder_may_be_written_as_a_url(url: str) -> None:
    assert str(make_blobs(url).folder) == "/a/b"  # type: ignore[attr-defined]


def test_where_objects_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(toml: str = "", **environ: str) -> str:
        (tmp_path / "headwater.toml").write_text(f"[default]\n{toml}")
        return load_config(tmp_path, environ=environ).objects_url

    assert place() == str(tmp_path.resolve() / ".headwater" / "objects")
    assert place('store = "sqlite:/var/shop"') == "/var/shop/objects"
    assert place('objects = "big"') == str(tmp_path / "big")
    assert place('objects = "/big"') == "/big"
    assert place('objects = "s3://shop/live"') == "s3://shop/live"
    monkeypatch.chdir(tmp_path)
    assert place('objects = "big"', HEADWATER_OBJECTS="other") == str(tmp_path / "other")
    assert place(HEADWATER_OBJECTS="s3://shop/live") == "s3://shop/live"
