"""A check's answer, and what a list of them amounts to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended; ``NOT_CHECKED`` where something that it needs failed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the check of that (short, stable) name found, and what to do about it; an ok finding has no cure."""

    check: str
    verdict: Verdict
    found: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A verdict of a rule, before the check's name is put to it."""

    verdict: Verdict
    found: str
    cure: str = ""


def ok(found: str) -> Opinion:
    """All is well with what was found."""
    return Opinion(Verdict.OK, found)


def warn(found: str, cure: str) -> Opinion:
    """It works, and is probably not meant, or will hurt one day."""
    return Opinion(Verdict.WARN, found, cure)


def fail(found: str, cure: str) -> Opinion:
    """Something does not work, or a promise is broken."""
    return Opinion(Verdict.FAIL, found, cure)


def counted(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """How many findings there are of each verdict, in the order of the verdicts."""
    all_of_them = list(findings)
    return {verdict: sum(finding.verdict is verdict for finding in all_of_them) for verdict in Verdict}
