"""Rows nested into documents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from headwater import csv
from headwater.codec import codec_for
from headwater.datasets import chunks, grouping
from headwater.datasets.rows import Document, Rows
from headwater.errors import DeclarationError, InvalidValue, TooManyRejected


class Row(BaseModel):
    department: str
    employee: str
    title: str | None
    pay: float = 1.0


class Employee(BaseModel):
    title: str | None
    employee: str
    pay: float


class Department(BaseModel):
    employees: list[Employee]
    department: str


class Person(msgspec.Struct):
    employee: str
    pay: float


class Team(msgspec.Struct):
    department: str
    people: list[Person]
    title: str | None = None
    version: int = 7


@dataclass
class Desk:
    title: str | None
    employee: str


@dataclass
class Floor:
    department: str
    desks: list[Desk]


async def once(data: str) -> AsyncIterator[bytes]:
    yield data.encode()


def read(data: str, model: Any = Department, into: str = "employees", row: Any = Row, **options: Any) -> Rows[Any]:
    return csv.read(once(data), row, **options).group(model, by="department", into=into)


def documents(rows: Rows[Any], *key: str) -> list[Document]:
    async def collect() -> list[Document]:
        return [document async for batch in rows.documents(*key) for document in batch]

    return asyncio.run(collect())


@pytest.fixture(params=["in memory", "spilled"])
def _spilled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "spilled":
        monkeypatch.setattr(grouping, "IN_MEMORY", 1000)
        monkeypatch.setattr(chunks, "CHUNK", 500)


@pytest.mark.usefixtures("_spilled")
def test_each_value_is_one_document_with_its_rows_in_the_files_order() -> None:
    rng = random.Random(1)
    rows = [(f"d{rng.randrange(20)}", f'e"{n}', rng.choice(["é", ""]), n / 4) for n in range(500)]
    text = "department,employee,title,pay\n" + "".join(f"{d},{e},{t},{p}\n" for d, e, t, p in rows)
    expected: dict[str, list[Employee]] = {}
    for department, employee, title, pay in rows:
        expected.setdefault(department, []).append(Employee(employee=employee, title=title or None, pay=pay))
    found = documents(read(text), "department")
    assert len(found) == len(expected)
    encode = codec_for(Department).encode
    assert {d.key[0]: d.body for d in found} == {
        name: encode(Department(department=name, employees=group)) for name, group in expected.items()
    }


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0\n\r,"'), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.floats(-10, 10)), max_size=15))
def test_groups_of_structs(rows: list[tuple[str, str, float]]) -> None:
    text = "department,employee,title,pay\n" + "".join(f"{d},{e},t{d},{p!r}\n" for d, e, p in rows)
    teams: dict[str, Team] = {}
    for department, employee, pay in rows:
        team = teams.setdefault(department, Team(department, [], f"t{department}"))
        team.people.append(Person(employee, pay))
    found = documents(read(text, Team, "people"))
    assert [d.body for d in found] == [codec_for(Team).encode(team) for team in teams.values()]


def test_dataclasses_and_defaults() -> None:
    (document,) = documents(read("department,employee,title\nd,e,\n", Floor, "desks"), "department")
    assert document.body == b'{"department":"d","desks":[{"employee":"e","title":null}]}'
    (document,) = documents(read("department,employee,title\nd,e,\n"))
    assert document.body == b'{"department":"d","employees":[{"employee":"e","pay":1.0,"title":null}]}'


def test_values_that_only_the_nested_model_refuses_are_rejects() -> None:
    class Short(BaseModel):
        employee: str = Field(max_length=2)
        pay: int

    class Group(BaseModel):
        department: str
        employees: list[Short]

    rows = read("department,employee,title,pay\nd,ab,,1\nd,abc,,2\nd,cd,,2.5\n", Group, max_rejected=1)
    assert [d.body for d in documents(rows)] == [b'{"department":"d","employees":[{"employee":"ab","pay":1}]}']
    assert [(r.line, r.column) for r in rows.rejects] == [(3, "employee"), (4, "pay")]
    assert (rows.rejects.count, rows.rejects.total) == (2, 3)


def test_models_with_rules_of_their_own_have_the_last_word() -> None:
    class Counted(BaseModel):
        department: str = Field(serialization_alias="Name")
        employees: list[Employee]
        size: int = 0

        @model_validator(mode="after")
        def count(self) -> Counted:
            self.size = len(self.employees)
            if self.department == "bad":
                raise ValueError("no such department")
            return self

    text = "department,employee,title\nd,a,\nd,b,\n"
    (document,) = documents(read(text, Counted), "Name")
    assert document.key == ("d",)
    assert document.body.endswith(b'"size":2}')
    with pytest.raises(InvalidValue, match="no such department"):
        documents(read(text + "bad,c,\n", Counted))


def test_nothing_is_handed_out_when_too_many_are_rejected() -> None:
    rows = read("department,employee,title,pay\nd,a,,1\nd,b,,x\n")
    got: list[Any] = []

    async def collect() -> None:
        async for batch in rows.documents():
            got.append(batch)

    with pytest.raises(TooManyRejected):
        asyncio.run(collect())
    assert not got


def test_an_empty_file_is_no_documents() -> None:
    assert documents(read("department,employee,title\n")) == []
    assert documents(read("department,employee,title\nd,e\n", max_rejected=1)) == []


def test_values_of_the_model_are_iterated() -> None:
    async def collect() -> list[Department]:
        return [department async for department in read("department,employee,title\nd,e,t\n")]

    assert asyncio.run(collect()) == [
        Department(department="d", employees=[Employee(employee="e", title="t", pay=1.0)])
    ]


def test_models_that_do_not_fit_are_refused_at_once() -> None:
    class NoList(BaseModel):
        department: str
        employees: str

    class Other(BaseModel):
        department: str
        city: str
        employees: list[Employee]

    with pytest.raises(DeclarationError, match="no list of a model"):
        read("", NoList)
    with pytest.raises(DeclarationError, match=r"Other\.city is no field of Row, and has no default"):
        read("", Other)
    with pytest.raises(DeclarationError, match="has no field 'people'"):
        read("", Department, "people")
    with pytest.raises(DeclarationError, match="grouped once"):
        read("").group(Department, by="department", into="employees")
    with pytest.raises(DeclarationError, match="no field 'x'"):
        documents(read("department,employee,title\n"), "x")
    with pytest.raises(DeclarationError, match="model"):
        csv.read(once(""), dict)


def test_temporary_files_are_removed_when_the_consumer_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(grouping, "IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = "department,employee,title\n" + "".join(f"d{n},e,t\n" for n in range(100))

    async def stop_early() -> None:
        batches = read(text).documents()
        await anext(batches)
        assert list(tmp_path.iterdir())
        await batches.aclose()

    asyncio.run(stop_early())
    assert not list(tmp_path.iterdir())
