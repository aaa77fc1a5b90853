"""The door of /fhir: who comes in, and whether this route is open to them. Health and metadata are open to all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from server.access import EVERYBODY, Access
from server.errors import Refusal
from server.tokens import TokenRefused, Verifier

ACCESS: web.RequestKey[Access] = web.RequestKey("access", Access)
_OPEN = ("/fhir/metadata",)


def authenticated(verifier: Verifier | None) -> Middleware:
    """Every request under /fhir and /idempotency has an Access, or is refused with 401. None: everybody may do everything."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[ACCESS] = EVERYBODY
        if verifier is not None and _is_guarded(request):
            try:
                request[ACCESS] = await verifier.access(request.headers.get("Authorization"))
            except TokenRefused as error:
                raise Refusal(
                    401, "login", str(error), challenge=f'Bearer error="invalid_token", error_description="{error}"'
                ) from None
        return await handler(request)

    return authenticate


def _is_guarded(request: web.Request) -> bool:
    path = request.path
    return path not in _OPEN and path.startswith(("/fhir/", "/idempotency/")) and request.method != "OPTIONS"


def needs(resource: str, action: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler behind a check of the caller's scopes: Refusal 403. `action`: a letter of SMART's c, r, u, d, s."""

    async def checked(request: web.Request) -> web.StreamResponse:
        require(request, resource, action)
        return await handler(request)

    return checked


def require(request: web.Request, resource: str, action: str) -> Access:
    """Raises Refusal 403 when the caller's scopes do not allow this."""
    access = request[ACCESS]
    if not access.may(resource, action):
        raise Refusal(
            403,
            "forbidden",
            f"the token's scopes do not allow {action!r} on {resource}",
            challenge='Bearer error="insufficient_scope"',
        )
    return access


def only_patient(request: web.Request, resource: str, action: str) -> str | None:
    """The patient whose data alone this caller may see or change; None for staff."""
    return request[ACCESS].only_patient(resource, action)
