"""Tokens for development: `locum up --auth` is its own issuer, on loopback only, with a key that it makes at the first start.

A deployment has an issuer of its own and names it in the table [server.auth] (server/tokens.py); nothing here is used then.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from compose.errors import NoCluster
from compose.layout import Layout
from replication.wire.secrets import write_private

ISSUER = "urn:locum:development"
AUDIENCE = "urn:locum:fhir"
STAFF_SCOPES = "user/*.cruds"
PATIENT_SCOPES = "patient/*.rs patient/Appointment.crus"
FOR_S = 12 * 3_600
_ALGORITHM = "ES256"


def ensure_key(layout: Layout) -> None:
    """Make the private key (0600) and the key set that the server reads, where they are missing."""
    if not layout.auth_key.exists():
        key = ECKey.generate_key("P-256", {"use": "sig", "alg": _ALGORITHM}, private=True)
        write_private(layout.auth_key, msgspec.json.encode(key.as_dict(private=True)).decode())
    key = _key(layout)
    public = {**key.as_dict(private=False), "kid": key.thumbprint()}
    write_private(layout.jwks, msgspec.json.encode({"keys": [public]}).decode())


def server_auth(layout: Layout) -> dict[str, Any]:
    """The table [auth] of server/settings.py."""
    return {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": str(layout.jwks)}


def make_token(layout: Layout, *, patient: str | None, scopes: str | None, for_s: int) -> str:
    """A bearer token for staff, or for one patient. Raises NoCluster when there is no key."""
    key, now = _key(layout), int(time.time())
    wanted = scopes or (STAFF_SCOPES if patient is None else PATIENT_SCOPES)
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "development-staff" if patient is None else f"development-patient-{patient}",
        "iat": now,
        "exp": now + for_s,
        "scope": wanted,
    }
    if patient is not None:
        claims["patient"] = patient
    return jwt.encode({"alg": _ALGORITHM, "kid": key.thumbprint()}, claims, key)


def _key(layout: Layout) -> ECKey:
    try:
        return ECKey.import_key(msgspec.json.decode(layout.auth_key.read_bytes()))
    except FileNotFoundError as error:
        raise NoCluster(f"{layout.auth_key} does not exist: `locum up --auth` makes it") from error
    except (msgspec.DecodeError, JoseError, ValueError) as error:
        raise NoCluster(f"{layout.auth_key} is no key: remove it and run `locum up --auth` again") from error
