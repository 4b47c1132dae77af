"""The catalog's HTTP API. Every request is one unit of work: its write and its event are one commit."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Header, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from apps.catalog.app import Draft, Product, app, products
from headwater import Change, Stored, new_id

http = app.http

ProductId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$")]
IfMatch = Annotated[str | None, Header(description="the ETag that the product must have")]
IfNoneMatch = Annotated[str | None, Header(description="* for a product that must not exist yet")]
Responses = dict[int | str, dict[str, Any]]
PRECONDITION: Responses = {412: {"description": "The product is not in the expected version"}}
ABSENT: Responses = {404: {"description": "There is no such product"}}


class Replacement(Draft):
    """What PUT takes: a product as GET gave it, or without its id."""

    id: str | None = None


class ProductPage(BaseModel):
    items: list[Product]
    cursor: str | None


class HistoryEntry(BaseModel):
    kind: str
    time: datetime
    old: Product | None
    new: Product | None
    version: str


class History(BaseModel):
    """Newest change first."""

    items: list[HistoryEntry]


@http.post("/products", status_code=201)
async def create_product(draft: Draft, request: Request, response: Response) -> Product:
    product = Product(id=new_id(), **draft.model_dump())
    version = await products.put(product, if_absent=True)
    response.headers["Location"] = str(request.url_for("get_product", id=product.id))
    response.headers["ETag"] = entity_tag(version)
    return product


@http.get("/products")
async def list_products(
    category: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: str | None = None,
) -> ProductPage:
    """Products in order of their id or, within a category, of their name; `cursor` continues a page."""
    if category is None:
        page = await products.query(limit=limit, cursor=cursor)
    else:
        page = await products.query(category, index="by-category", limit=limit, cursor=cursor)
    return ProductPage(items=page.items, cursor=page.cursor)


@http.get("/products/{id}", responses=ABSENT, response_model=Product)
async def get_product(id: ProductId, response: Response, if_none_match: IfNoneMatch = None) -> Product | Response:
    found = await products.read(id)
    if found is None:
        raise absent(id)
    tag = entity_tag(found.version)
    if if_none_match is not None and tag in entity_tags(if_none_match):
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return found.value


@http.put("/products/{id}", responses={**PRECONDITION, 201: {"description": "Created"}})
async def put_product(
    id: ProductId,
    replacement: Replacement,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Product:
    """Create or replace a product; `If-Match` guards against lost updates, `If-None-Match: *` only creates."""
    if replacement.id not in (None, id):
        raise invalid("body", "id", f"the path says {id}", replacement.id)
    if if_none_match not in (None, "*"):
        raise invalid("header", "if-none-match", "only * is supported here", if_none_match)
    product = Product(**{**replacement.model_dump(), "id": id})
    present = await products.read(id)
    wanted = expected_version(if_match, present)
    version = await products.put(product, if_version=wanted, if_absent=if_none_match == "*")
    response.status_code = 201 if present is None else 200
    response.headers["ETag"] = entity_tag(version)
    return product


@http.delete("/products/{id}", status_code=204, responses={**ABSENT, **PRECONDITION})
async def delete_product(id: ProductId, if_match: IfMatch = None) -> None:
    present = await products.read(id)
    if present is None:
        raise absent(id)
    await products.delete(id, if_version=expected_version(if_match, present))


@http.get("/products/{id}/history", responses=ABSENT)
async def get_history(id: ProductId, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> History:
    """The changes of a product, deleted ones included, as far back as the server keeps its history."""
    changes = await products.history(id, limit=limit)
    if not changes and await products.get(id) is None:
        raise absent(id)
    return History(items=[entry_of(change) for change in changes])


def entry_of(change: Change[Product]) -> HistoryEntry:
    return HistoryEntry(kind=change.type, time=change.time, old=change.old, new=change.new, version=change.version)


def entity_tag(version: str) -> str:
    return f'"{version}"'


def entity_tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]


def expected_version(if_match: str | None, present: Stored[Product] | None) -> str | None:
    """The version that `If-Match` asks for; of several the present one, if it is among them."""
    if if_match is None:
        return None
    tags = entity_tags(if_match)
    if present is not None and entity_tag(present.version) in tags:
        return present.version
    return tags[0]


def absent(id: str) -> HTTPException:
    return HTTPException(404, f"there is no product {id}")


def invalid(place: str, field: str, message: str, value: object) -> RequestValidationError:
    """A validation error in the form of all others: it names the place and the field."""
    return RequestValidationError([{"type": "value_error", "loc": (place, field), "msg": message, "input": value}])
