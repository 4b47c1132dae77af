"""The applications on a stand-in for AWS, deployed from their generated templates, each function under its own role.

Each app is a stack of its own, as it would be deployed; catalog and reporting are one. What the apps do in detail their
own tests show on the other engines: here it is that each way between their parts exists on AWS, and is allowed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from headwater.deploy.smoke import check_api, check_relay
from headwater.engines import open_engine
from tests.aws import stories
from tests.aws.deployed import Deployed, deployed, make_ministack
from tests.aws.ministack import MISSING, Ministack, is_installed
from tests.postgres.fixtures import lacking


@pytest.fixture(scope="module")
def judge() -> Iterator[Ministack]:
    """A stand-in that judges each request by IAM."""
    if not is_installed():
        lacking(MISSING)
    with make_ministack() as running:
        yield running


@pytest.fixture(scope="module")
def shop(judge: Ministack) -> Iterator[Deployed]:
    with deployed(judge, "shop", stories.SHOP) as made:
        yield made


@pytest.fixture(scope="module")
def desk(judge: Ministack) -> Iterator[Deployed]:
    with deployed(judge, "desk", stories.DESK, TOKEN_SECRET=stories.SECRET) as made:
        yield made


@pytest.fixture(scope="module")
def office(judge: Ministack) -> Iterator[Deployed]:
    with stories.vendor() as variables, deployed(judge, "office", stories.OFFICE, **variables) as made:
        yield made


@pytest.fixture(scope="module")
def studio(judge: Ministack) -> Iterator[Deployed]:
    with deployed(judge, "studio", stories.STUDIO, TOKEN_SECRET=stories.SECRET) as made:
        yield made


@pytest.fixture(scope="module")
def house(judge: Ministack) -> Iterator[Deployed]:
    with deployed(judge, "house", stories.HOUSE, TOKEN_SECRET=stories.SECRET) as made:
        yield made


def test_a_product_reaches_the_report_of_another_app(shop: Deployed) -> None:
    stories.sell(shop)


def test_readings_are_accepted_persisted_and_seen_by_their_user_alone(desk: Deployed) -> None:
    stories.take_in(desk)


def test_a_reading_that_cannot_be_persisted_becomes_a_dead_letter(desk: Deployed) -> None:
    stories.spoil(desk)


def test_a_revoked_consent_is_deleted_at_the_vendor(office: Deployed) -> None:
    stories.revoke(office)


def test_an_upload_reaches_the_queue_of_its_container(studio: Deployed) -> None:
    stories.upload(studio)


def test_a_staff_file_becomes_documents(house: Deployed) -> None:
    stories.drop_staff(house)


def test_a_deployment_is_asked_whether_it_works(shop: Deployed) -> None:
    checks = [*check_api(shop.url, ["catalog", "reporting"]), check_relay("shop")]
    assert [(check.name.rpartition("/")[2], check.problem) for check in checks] == [
        ("live", ""),
        ("ready", ""),
        ("openapi.json", ""),
        ("openapi.json", ""),
        ("relay", ""),
    ]


def test_a_paused_queue_gives_its_function_nothing(shop: Deployed) -> None:
    async def pause(paused: bool) -> None:
        engine = await open_engine("aws:shop")
        await engine.pause("catalog/announce", paused)
        await engine.close()

    def is_on() -> bool:
        answer = shop.aws.call("lambda", "list_event_source_mappings", FunctionName="shop-catalog-announce-queue")
        (mapping,) = answer["EventSourceMappings"]
        return str(mapping["State"]) == "Enabled"

    assert is_on()
    asyncio.run(pause(True))
    try:
        assert not is_on()
    finally:
        asyncio.run(pause(False))
    assert is_on()


def test_a_relay_that_does_not_work_is_told(shop: Deployed) -> None:
    calls = shop.aws.call
    (mapping,) = (
        one
        for one in calls("lambda", "list_event_source_mappings", FunctionName="shop-headwater-relay")[
            "EventSourceMappings"
        ]
        if "alarm-states" in one["EventSourceArn"]
    )
    calls("lambda", "update_event_source_mapping", UUID=mapping["UUID"], Enabled=False)
    try:
        assert check_relay("shop", patience_s=2).problem == "no event within 2 s"
    finally:
        calls("lambda", "update_event_source_mapping", UUID=mapping["UUID"], Enabled=True)
