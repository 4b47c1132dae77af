"""The page at `/docs`: what the document says, in words, safe, and with nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from headwater import App
from headwater.http.api_page import operations_of, page_of, words_of
from headwater.http.require import require
from headwater.pytest_plugin import StartHarness

ATTACK = "<script>window.hacked=1</script>"


class Line(BaseModel):
    sku: str = Field(min_length=1, max_length=20, description=ATTACK)
    n: int = Field(1, gt=0)


class Order(BaseModel):
    id: str
    lines: list[Line]
    note: str | None = None


def shop() -> App[None]:
    app = App[None]("shop")

    @app.http.post("/orders/{id}", status_code=201, summary=f"Order {ATTACK}")
    async def order(id: str, order: Order, caller: Annotated[Any, require("buyer")], dry: bool = False) -> Order:
        """Takes an order."""
        return order

    return app


class References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


async def test_the_page_is_served_and_refers_to_nothing_elsewhere(harness: StartHarness) -> None:
    app = shop()
    h = await harness(app)
    answer = await h.client(app).get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = References()
    page.feed(answer.text)
    assert "/openapi.json" in page.found
    assert [one for one in page.found if urlsplit(one).netloc or urlsplit(one).scheme not in ("", "data")] == []
    assert "script" not in page.tags
    assert ATTACK not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "@import" not in answer.text
    assert "url(" not in answer.text
    assert {one[1:] for one in page.found if one.startswith("#")} <= set(page.ids)


def test_each_operation_is_told_with_what_it_takes_and_answers() -> None:
    (order,) = operations_of(shop().http.openapi())
    assert (order.method, order.path, order.description) == ("POST", "/orders/{id}", "Takes an order.")
    assert order.security == ["a bearer token with the role buyer", "an API key with the role buyer"]
    assert {(field.name, field.place, field.required) for field in order.parameters} == {
        ("id", "path", True),
        ("dry", "query", False),
        ("Idempotency-Key", "header", False),
    }
    assert [(one.media_type, one.type[0].of) for one in order.body] == [("application/json", "Order")]
    answers = {answer.status: answer for answer in order.answers}
    assert answers["201"].contents[0].type[0].of == "Order"
    assert answers["409"].contents[0].type[0].of == "Problem"


def test_schemas_are_told_in_words() -> None:
    def said(schema: dict[str, Any]) -> str:
        return "".join(word.text for word in words_of(schema))

    assert (
        said({"type": "array", "items": {"$ref": "#/components/schemas/shop~1bills.Size"}}) == "list of shop/bills.Size"
    )
    assert said({"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}], "default": None}) == (
        "string (length ≥ 2) or null (otherwise null)"
    )
    assert said({"type": ["string", "integer"]}) == "string or integer"
    assert said({"type": "string", "format": "date"}) == "string (date)"
    assert said({"enum": ["S", "M"]}) == '"S" or "M"'
    assert said({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}) == (
        "object of integer (≥ 0)"
    )
    assert said({}) == "anything"


def test_an_app_below_a_path_links_to_its_own_document() -> None:
    assert 'href="/prod/shop/openapi.json"' in page_of(shop().http.openapi(), "/prod/shop")
