"""The demo clinic: two sites, a room for each practitioner, open every day, always the same. Pure."""

from __future__ import annotations

from server.availability import Rule
from server.clinic import Clinic, Person, Site

DAYS_AHEAD = 14
SITES = (("north", "Locum Clinic North", "Europe/London"), ("south", "Locum Clinic South", "Europe/Berlin"))
_GIVEN = ("Ada", "Bernard", "Chidi", "Dana", "Elif", "Farid", "Grace", "Hana", "Igor", "Jun")
_FAMILY = ("Abara", "Bianchi", "Castillo", "Dvorak", "Eriksen", "Fontaine", "Gupta", "Haddad")
_SPECIALTIES = (
    ("394814009", "General practice"),
    ("394579002", "Cardiology"),
    ("394582007", "Dermatology"),
    ("394537008", "Paediatric specialty"),
)


_OPEN = Rule()


def demo_clinic(count: int) -> Clinic:
    """With the first `count` practitioners, at most 80."""
    sites = [Site(f"site-{key}", name, zone) for key, name, zone in SITES]
    return Clinic(sites, [_person(number, sites) for number in range(count)], DAYS_AHEAD)


def _person(number: int, sites: list[Site]) -> Person:
    code, specialty = _SPECIALTIES[number % len(_SPECIALTIES)]
    site = sites[number % len(sites)]
    return Person(
        id=f"dr-{number + 1:02d}",
        given=_GIVEN[number % len(_GIVEN)],
        family=_FAMILY[number // len(_GIVEN)],
        specialty_code=code,
        specialty=specialty,
        room_id=f"room-{number + 1:02d}",
        room=f"Room {number + 1}, {site.name}",
        site=site.id,
        availability=[_OPEN],
    )
