"""SCRAM secrets against the test vector that PostgreSQL's own documentation of the format allows to compute."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from replication.scram import scram_secret


def test_the_example_of_rfc_7677() -> None:
    """User `user`, password `pencil`: the server signature of RFC 7677, section 3, follows from the secret's keys."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    kind, iterations_salt, keys = scram_secret("pencil", salt=salt, iterations=4096).split("$")
    stored, server = (base64.b64decode(part) for part in keys.split(":"))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, message, "sha256")
    client_key = bytes(left ^ right for left, right in zip(proof, signature, strict=True))
    assert (kind, iterations_salt) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    assert hashlib.sha256(client_key).digest() == stored
    assert base64.b64encode(hmac.digest(server, message, "sha256")) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_two_secrets_of_one_password_differ() -> None:
    assert scram_secret("x") != scram_secret("x")


def test_only_ascii() -> None:
    with pytest.raises(ValueError, match="ASCII"):
        scram_secret("pässword")
