"""The page at `/`. All else that the app serves is declared in `app.py`."""

import hashlib
import re
from base64 import b64encode
from pathlib import Path

from fastapi.responses import HTMLResponse

from apps.intake.app import app

PAGE = (Path(__file__).parent / "page.html").read_text("utf-8")


def policy_of(page: str) -> str:
    """A Content-Security-Policy under which only the page's own style and script count, known by their digests."""

    def digests(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashed = (b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{digest}'" for digest in hashed)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


HEADERS = {"Content-Security-Policy": policy_of(PAGE), "Cache-Control": "no-cache"}


@app.http.get("/", include_in_schema=False)
async def show_page() -> HTMLResponse:
    return HTMLResponse(PAGE, headers=HEADERS)
