"""Bearer tokens: JWTs of one issuer for one audience, by keys that it publishes (RFC 6750, RFC 7519, RFC 8725).

The algorithm is one of ours, never the token's own choice: `none` and the symmetric ones are refused whatever a token says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from server.access import Access, parse_scopes
from server.errors import ServerError

_log = structlog.get_logger()

ALGORITHMS = ("RS256", "RS384", "ES256", "ES384", "PS256", "EdDSA")
_LEEWAY_S = 30
_FETCH_S = 5.0
_KEYS_BYTES_MAX = 1 << 20
_TOKEN_CHARS_MAX = 8_192
_KEYS_AGAIN_S = 30.0
_KEYS_AGE_S_MAX = 3_600.0


class TokenRefused(ServerError):
    """Why, in words for the WWW-Authenticate header; never a word of the token itself."""


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose tokens are taken. `jwks_url` or `jwks_file`: the issuer's public keys (RFC 7517)."""

    issuer: str
    audience: str
    jwks_url: str | None = None
    jwks_file: Path | None = None


Fetch = Callable[[], Awaitable[bytes]]


async def keys_of(session: aiohttp.ClientSession, settings: AuthSettings) -> bytes:
    """The issuer's key set. Raises OSError, TimeoutError or KeyError."""
    if settings.jwks_url is None:
        if settings.jwks_file is None:
            raise KeyError("jwks_file")
        return await asyncio.to_thread(settings.jwks_file.read_bytes)
    try:
        timeout = aiohttp.ClientTimeout(total=_FETCH_S)
        async with session.get(settings.jwks_url, timeout=timeout, allow_redirects=False) as answer:
            answer.raise_for_status()
            return await answer.content.read(_KEYS_BYTES_MAX)
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


class Verifier:
    """Checks tokens. `fetch`: the issuer's key set as it is now; asked again when a token names a key that is not known."""

    def __init__(self, settings: AuthSettings, fetch: Fetch, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_s = float("-inf")
        self._turn = asyncio.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": settings.audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def access(self, header: str | None) -> Access:
        """Who sends this Authorization header. Raises TokenRefused."""
        if header is None:
            raise TokenRefused("a bearer token is needed")
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token or len(token) > _TOKEN_CHARS_MAX:
            raise TokenRefused("the Authorization header holds no bearer token")
        claims = await self._claims_of(token.strip())
        patient = claims.get("patient")
        scope = claims.get("scope", "")
        if not isinstance(scope, str) or not isinstance(patient, str | None):
            raise TokenRefused("the token's scope or patient is no text")
        return Access(str(claims["sub"])[:200], parse_scopes(scope), patient)

    async def _claims_of(self, token: str) -> dict[str, Any]:
        try:
            return self._checked(token, await self._known())
        except (JoseError, ValueError, KeyError):
            fresh = await self._known(again=True)
        try:
            return self._checked(token, fresh)
        except (JoseError, ValueError, KeyError) as error:
            raise TokenRefused(_sentence(error)) from None

    def _checked(self, token: str, keys: KeySet) -> dict[str, Any]:
        decoded = jwt.decode(token, keys, algorithms=list(ALGORITHMS))
        self._claims.validate(decoded.claims)
        return dict(decoded.claims)

    async def _known(self, *, again: bool = False) -> KeySet:
        """The keys; fetched anew when they are old, or when asked `again` and that was not just now."""
        age_s = time.monotonic() - self._fetched_s
        if self._keys is not None and age_s < (_KEYS_AGAIN_S if again else _KEYS_AGE_S_MAX):
            return self._keys
        async with self._turn:
            if self._keys is not None and time.monotonic() - self._fetched_s < _KEYS_AGAIN_S:
                return self._keys
            try:
                self._keys = KeySet.import_key_set(msgspec.json.decode(await self._fetch()))
                self._fetched_s = time.monotonic()
            except (OSError, TimeoutError, msgspec.DecodeError, JoseError, ValueError, KeyError) as error:
                _log.error("server.keys_unreadable", error=type(error).__name__)
                if self._keys is None:
                    raise TokenRefused("the issuer's keys cannot be read now") from None
            return self._keys


def _sentence(error: Exception) -> str:
    name = getattr(error, "error", "") or type(error).__name__
    claim = getattr(error, "claim", None)
    return f"the token is refused: {name}" + (f" ({claim})" if claim else "")
