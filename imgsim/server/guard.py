"""What stands before every request: who asks, from where, and how much it sends."""

import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Self

import anyio
from starlette.datastructures import URL, Headers, MutableHeaders, QueryParams
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgsim.server.problems import Refused, problem
from imgsim.server.settings import ServerSettings

_SAFE = {"GET", "HEAD"}
_LARGE_BODIES = 4  # of the largest size that are held in memory together
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """ASGI middleware: lets requests through that know the token and come from its own pages.

    Host and Origin are checked, as a page of another site can have its name lead to this machine,
    and can post to it. The token in an address becomes a cookie.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings
        self._cookie = f"imgsim_{settings.port}"
        self._held = _Held(_LARGE_BODIES * settings.upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is not let through, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_policy(send)
        answer = self._refusal(scope)
        if answer is not None:
            await answer(scope, receive, send)
            return
        with _Body(receive, self._settings, self._held) as body:
            await self._app(scope, body, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return what to answer instead, if anything."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._settings.is_own(host):
            return problem(421, "this server is not called so")
        if scope["method"] not in _SAFE and not self._is_own_page(headers, host):
            return problem(403, "a page of another site may not do that")
        return self._stranger(scope, headers)

    def _stranger(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        """Return what to answer to who does not know the token, or brings it in the address."""
        if scope["path"] == "/api/v1/health":
            return None
        given = QueryParams(scope["query_string"]).get("token")
        if given is not None and self._is_key(given) and scope["method"] in _SAFE:
            url = URL(scope=scope).remove_query_params("token")
            target = f"{url.path}?{url.query}" if url.query else url.path
            answer = RedirectResponse(target, 303)
            answer.set_cookie(self._cookie, given, httponly=True, samesite="strict")
            return answer
        if self._is_key(_cookie(headers, self._cookie)):
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_key(bearer):
            return None
        return problem(401, "open the address that `imgsim serve` printed, or send its token")

    def _is_own_page(self, headers: Headers, host: str) -> bool:
        """Say whether a request comes from a page of this server, or from no page at all."""
        own = {f"http://{host}"}
        if self._settings.unix_socket:  # a proxy before it may speak TLS
            own.add(f"https://{host}")
        site = headers.get("sec-fetch-site", "none")
        return headers.get("origin", f"http://{host}") in own and site in {"same-origin", "none"}

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._settings.key.encode())


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


@dataclass
class _Held:
    """How many bytes the bodies of all requests may take together, and how many they do."""

    most: int
    now: int = 0


class _Body:
    """Receives a body of limited size, in limited time, while all together are not too large."""

    def __init__(self, receive: Receive, settings: ServerSettings, held: _Held) -> None:
        self._receive, self._settings, self._held = receive, settings, held
        self._received, self._ends = 0, False
        self._until = anyio.current_time() + settings.upload_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.now -= self._received

    async def __call__(self) -> Message:
        if self._ends:
            return await self._receive()  # waits for the client to go
        try:
            with anyio.fail_after(self._until - anyio.current_time()):
                message = await self._receive()
        except TimeoutError as error:
            raise Refused(408, "the body took too long") from error
        count = len(message.get("body", b""))
        self._received += count
        self._held.now += count
        self._ends = not message.get("more_body", False)
        if self._received > self._settings.upload_bytes:
            most = self._settings.upload_bytes
            raise Refused(413, f"at most {most:,} bytes are taken")
        if self._held.now > self._held.most:
            raise Refused(503, "others send large bodies just now; try again in a second")
        return message


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _POLICY.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sending
