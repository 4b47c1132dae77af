"""The reports over HTTP, read-only."""

from fastapi import HTTPException
from pydantic import BaseModel

from apps.reporting.app import Total, app, audit, report

http = app.http


class Totals(BaseModel):
    items: list[Total]


class Audit(BaseModel):
    """The audit's own totals, and the categories in which the report says something else."""

    items: list[Total]
    differences: list[str]


@http.get("/totals")
async def get_totals() -> Totals:
    return Totals(items=await report.by_category())


@http.get("/totals/{category:path}", responses={404: {"description": "No product is in this category"}})
async def get_total(category: str) -> Total:
    total = await report.of(category)
    if total is None:
        raise HTTPException(404, f"no product is in the category {category}")
    return total


@http.get("/audit")
async def get_audit() -> Audit:
    audited, reported = await audit.by_category(), await report.by_category()
    apart = {total.category for total in audited if total not in reported}
    apart |= {total.category for total in reported if total not in audited}
    return Audit(items=audited, differences=sorted(apart))
