"""The page as it is sent: what its Content-Security-Policy allows, and that it can only render data as text."""

import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator

import httpx
import pytest

from apps.intake.api import PAGE, policy_of
from apps.intake.app import app
from headwater.testing import Harness

DIGEST = r"'sha256-[A-Za-z0-9+/]{43}='"


@pytest.fixture
async def page() -> AsyncIterator[httpx.Response]:
    async with Harness(app) as running:
        answer = await running.client(app).get("/")
        assert answer.status_code == 200
        yield answer


def policy(answer: httpx.Response) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in answer.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in parts}


async def test_only_the_pages_own_script_and_style_are_allowed(page: httpx.Response) -> None:
    allowed = policy(page)
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (block,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert allowed[rule] == f"'sha256-{digest}'"
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert allowed["frame-ancestors"] == "'none'"
    assert allowed["connect-src"] == "'self'"


def test_the_policy_follows_the_page() -> None:
    policies = {policy_of(PAGE), policy_of(PAGE.replace('"use strict";', '"use strict"; ', 1))}
    assert len(policies) == 2
    assert all(len(re.findall(DIGEST, policy)) == 2 for policy in policies)


async def test_it_is_html_that_is_asked_for_anew(page: httpx.Response) -> None:
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline_but_the_blocks() -> None:
    assert "//" not in re.sub(r"  // .*", "", PAGE).replace("<!doctype html>", "")
    assert re.findall(r"\s(?:src|href|action)=\"([^\"]*)\"", PAGE) == ["data:,"]
    assert not re.search(r"<[^>]*\s(?:style|on\w+)=", PAGE)


def test_data_becomes_text_only_and_the_token_stays_in_the_tab() -> None:
    for parser in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "setHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
    ):
        assert parser not in PAGE
    assert "localStorage" not in PAGE
    assert "cookie" not in PAGE
