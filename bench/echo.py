"""Bare servers that answer POST /echo with the body: the most that uvicorn, uvloop and httptools can do."""

from __future__ import annotations

ECHOES = {
    "fastapi": """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

class Body(BaseModel):
    FIELDS

app = FastAPI()

@app.post("/echo", status_code=202)
async def echo(body: Body) -> Body:
    return body

uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, lifespan="off")
""",
    "starlette": """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def echo(request):
    return JSONResponse(await request.json(), status_code=202)

app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, lifespan="off")
""",
    "asgi": """
import sys, uvicorn

async def app(scope, receive, send):
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, lifespan="off")
""",
}


def echo_with(name: str, *fields: str) -> str:
    """A server's code; `fields` are those of the model that FastAPI's checks."""
    return ECHOES[name].replace("FIELDS", "\n    ".join(fields))
