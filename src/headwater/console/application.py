"""The console as an ASGI application: pages, their static files, actions, the stream, signing in."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.console.actions import parameters_of, place_of
from headwater.console.filters import FILTERS
from headwater.console.forms import gathered
from headwater.console.guard import COOKIE, SESSION_S, Guard, Visitor
from headwater.console.house import House
from headwater.console.screens import Screen, View, all_screens
from headwater.console.stream import Stream
from headwater.console.transfers import Transfers
from headwater.errors import (
    Forbidden,
    HeadwaterError,
    InvalidRequest,
    InvalidValue,
    TooLarge,
    Unauthenticated,
    UnknownResource,
    status_of,
)
from headwater.http.admin import MAX_BODY
from headwater.http.answers import error_body

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " frame-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PERMITTING = frozenset({"bucket-presign"})
"""Operations that write nothing, but whose answers let their holder write."""
_MAIL_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_MAIL_HEADERS = {"Content-Security-Policy": _MAIL_POLICY, "X-Frame-Options": "SAMEORIGIN"}
_SHOWN_ONCE = {"key-create": "key", "key-rotate": "key", "subscribe": "secret"}
"""Members of answers that are secrets, and that nothing shows again."""
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Console:
    def __init__(self, house: House, guard: Guard, stream: Stream, *, store: str = "") -> None:
        self.house = house
        self.guard = guard
        self.stream = stream
        self.screens = all_screens()
        self._operations = {operation["operation"]: operation for operation in house.describe()}
        self._templates = Environment(
            loader=PackageLoader("headwater.console"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals["store"] = store

    def routes(self) -> list[BaseRoute]:
        pages = [Route(screen.path, self._page(screen), methods=["GET"]) for screen in self.screens]
        return [
            Route("/static/{name:path}", self.static, methods=["GET"]),
            Route("/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/stream", self.listen, methods=["GET"]),
            Route("/ask/{operation}", self.ask, methods=["POST"]),
            Route("/actions/{operation}", self.act, methods=["POST"]),
            *Transfers(self.house, self._visitor, self._actor, self.stream.stir).routes(),
            Route("/mail/{id}/html", self.mail_html, methods=["GET"]),
            *pages,
        ]

    def _page(self, screen: Screen) -> Any:
        async def page(request: Request) -> Response:
            visitor = self._visitor(request)
            view = View(self.house, visitor, request.path_params, dict(request.query_params), self.stream.clock)
            with self.stream.timed():
                return self._render(request, visitor, screen, await screen.load(view))

        return page

    def _render(self, request: Request, visitor: Visitor, screen: Screen, content: Mapping[str, Any]) -> Response:
        text = self._templates.get_template(screen.template).render(
            screen=screen,
            visitor=visitor,
            navigation=[other for other in self.screens if other.key],
            address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            query=dict(request.query_params),
            open=self.guard.open,
            **content,
        )
        return HTMLResponse(text)

    def _visitor(self, request: Request) -> Visitor:
        self.guard.check_host(request.headers.get("host", ""))
        visitor = self.guard.visitor(request.cookies.get(COOKIE))
        if visitor is None:
            raise Unauthenticated("sign in first", operation="console")
        return visitor

    async def _check_form(self, request: Request, visitor: Visitor) -> dict[str, Any]:
        """The form, or the JSON object, of one of our own pages."""
        _check_origin(request)
        if request.headers.get("content-type", "").startswith("application/json"):
            given = _object(await request.body())
            token = request.headers.get("x-csrf", "")
        else:
            form = await request.form()
            given = {name: value for name, value in form.multi_items() if isinstance(value, str)}
            token = given.pop("csrf", "")
        _check_token(token, visitor)
        return dict(given)

    def _actor(self, request: Request) -> Visitor:
        """Whose script of ours asks for a change; nothing of the body is read."""
        visitor = self._visitor(request)
        _check_origin(request)
        _check_token(request.headers.get("x-csrf", ""), visitor)
        visitor.check_may_act("console")
        return visitor

    async def act(self, request: Request) -> Response:
        """Run an operation for a form (then back to its page) or for a script (then its answer)."""
        visitor = self._visitor(request)
        given = await self._check_form(request, visitor)
        operation = self._operation(request)
        if operation["writes"] or operation["operation"] in _PERMITTING:
            visitor.check_may_act(operation["operation"])
        back = place_of(given.pop("back", "/"))
        wants_page = "application/json" not in request.headers.get("accept", "")
        if (question := given.pop("confirm", "")) and wants_page:
            fields = {**given, "back": back, "csrf": visitor.csrf}
            text = self._templates.get_template("confirm.html").render(
                question=question, fields=fields, address=request.url.path
            )
            return HTMLResponse(text)
        parameters = parameters_of(operation, gathered(given))
        answer = await self.house.call(operation["operation"], parameters, by=visitor.name)
        self.stream.stir()
        if not wants_page:
            return JSONResponse(answer)
        if secret := answer.get(_SHOWN_ONCE.get(operation["operation"], "")):
            return HTMLResponse(self._templates.get_template("secret.html").render(secret=secret, back=back))
        return RedirectResponse(back, 303)

    async def ask(self, request: Request) -> Response:
        """An operation that reads, for scripts."""
        visitor = self._visitor(request)
        given = await self._check_form(request, visitor)
        operation = self._operation(request)
        if operation["writes"] or operation["operation"] in _PERMITTING:
            raise Forbidden("this operation writes", operation=operation["operation"])
        return JSONResponse(await self.house.call(operation["operation"], given, by=visitor.name))

    def _operation(self, request: Request) -> dict[str, Any]:
        name = request.path_params["operation"]
        if name not in self._operations:
            raise UnknownResource("there is no such operation", operation=name)
        return self._operations[name]

    async def listen(self, request: Request) -> Response:
        self._visitor(request)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return self.stream.response(request.query_params.get("topics", ""))

    async def mail_html(self, request: Request) -> Response:
        """The HTML part of a mail, for a frame: it may bring its styles and pictures; nothing is run or fetched."""
        visitor = self._visitor(request)
        mail = await self.house.call("mail-show", {"id": request.path_params["id"]}, by=visitor.name)
        return HTMLResponse(mail["html"], headers=_MAIL_HEADERS)

    async def static(self, request: Request) -> Response:
        self.guard.check_host(request.headers.get("host", ""))
        name = request.path_params["name"]
        file = files("headwater.console").joinpath("static", *name.split("/"))
        kind = _TYPES.get(name[name.rfind(".") :])
        if kind is None or ".." in name or not file.is_file():
            raise UnknownResource("there is no such file", resource=name)
        return Response(file.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})

    async def sign_in(self, request: Request) -> Response:
        self.guard.check_host(request.headers.get("host", ""))
        back = place_of(request.query_params.get("back", "/"))
        problem = ""
        if request.method == "POST":
            _check_origin(request)
            form = await request.form()
            try:
                cookie = await self.guard.sign_in(str(form.get("token", "")))
            except (Unauthenticated, Forbidden) as error:
                problem = error.message
            else:
                answer = RedirectResponse(back, 303)
                secure = request.url.scheme == "https"
                answer.set_cookie(COOKIE, cookie, SESSION_S, httponly=True, samesite="strict", secure=secure)
                return answer
        text = self._templates.get_template("sign_in.html").render(problem=problem, back=back)
        return HTMLResponse(text, 401 if problem else 200)

    async def sign_out(self, request: Request) -> Response:
        await self._check_form(request, self._visitor(request))
        self.guard.sign_out(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(COOKIE)
        return answer

    async def on_error(self, request: Request, error: Exception) -> Response:
        error = _told(request, error)
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and isinstance(error, Unauthenticated):
            return RedirectResponse(f"/sign-in?back={quote(request.url.path)}", 303)
        if not wants_page:
            return JSONResponse(error_body(error), status_of(error))
        text = self._templates.get_template("problem.html").render(error=error, status=status_of(error))
        return HTMLResponse(text, status_of(error))


def _check_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise Forbidden("the request comes from another site", operation="console")


def _check_token(token: str, visitor: Visitor) -> None:
    if not hmac.compare_digest(token.encode(), visitor.csrf.encode()):
        raise Forbidden("the page is too old", operation="console", hint="load it again and repeat")


def make_console(house: House, guard: Guard, stream: Stream, *, store: str = "") -> ASGIApp:
    console = Console(house, guard, stream, store=store)
    errors = {HeadwaterError: console.on_error, HTTPException: console.on_error, Exception: console.on_error}
    return _Secured(Starlette(routes=console.routes(), exception_handlers=errors))


def _told(request: Request, error: Exception) -> HeadwaterError:
    """What went wrong, as a problem; what nobody expected says no more than that (the log has it all)."""
    if isinstance(error, HeadwaterError):
        return error
    place = request.url.path
    if isinstance(error, HTTPException) and error.status_code == 404:
        return UnknownResource("there is no such page", operation="console", resource=place)
    if isinstance(error, HTTPException):
        return InvalidRequest(error.detail, operation="console", resource=place)
    return HeadwaterError("the console failed", operation="console", resource=place, hint="the server's log says more")


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidValue(f"the body is no JSON object: {error}", operation="console") from error


class _Secured:
    """The headers of every answer, and how much a request may send: what streams has limits of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                for name, value in _HEADERS.items():
                    if name.lower().encode() not in present:
                        message["headers"].append((name.lower().encode(), value.encode()))
            await send(message)

        streams = scope["type"] == "http" and scope["method"] == "PUT" and scope["path"] == "/objects"
        await self._app(scope, receive if streams else _limited(receive), secured)


def _limited(receive: Receive) -> Receive:
    came = 0

    async def limited() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > MAX_BODY:
            raise TooLarge(f"the request's body is larger than {MAX_BODY} bytes", operation="console")
        return message

    return limited
