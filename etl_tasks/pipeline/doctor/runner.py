"""Runs checks one after the other; what one of them meets never keeps the next one from running."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from etl_tasks.core.doctor.findings import Finding, Opinion, Verdict
from etl_tasks.errors import EtlError, UsageError

log = structlog.get_logger(__name__)

_CURES = {
    "AuthenticationFailed": "correct the login; python -m etl_tasks config shows where each setting comes from",
    "Unreachable": "start it, or correct its address; python -m etl_tasks config shows what is in force",
}


@dataclass(frozen=True, slots=True)
class Check:
    """``look`` gives one opinion or several; it is not called when one of ``needs`` failed or was not checked."""

    name: str
    look: Callable[[], Opinion | Sequence[Opinion]]
    needs: Sequence[str] = ()


def chosen(checks: Sequence[Check], names: Collection[str]) -> list[Check]:
    """The checks of these names and those that they need, all of them without names; raises UsageError for others."""
    known = {check.name: check for check in checks}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"there is no check {', '.join(unknown)}; there are {', '.join(known)}")
    wanted: set[str] = set()
    todo = list(names or known)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += known[name].needs
    return [check for check in checks if check.name in wanted]


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """The findings, in the order of the checks; a check that raises has failed with what it said."""
    lost: set[str] = set()
    for check in checks:
        missing = [need for need in check.needs if need in lost]
        if missing:
            lost.add(check.name)
            yield Finding(check.name, Verdict.NOT_CHECKED, f"needs {', '.join(missing)}")
            continue
        for opinion in _opinions(check):
            if opinion.verdict is Verdict.FAIL:
                lost.add(check.name)
            yield Finding(check.name, opinion.verdict, opinion.found, opinion.cure)


def _opinions(check: Check) -> Sequence[Opinion]:
    try:
        found = check.look()
    except EtlError as error:
        kind = next((name.__name__ for name in type(error).__mro__ if name.__name__ in _CURES), "")
        return [Opinion(Verdict.FAIL, str(error), _CURES.get(kind, "see what it says, then run doctor again"))]
    except Exception as error:
        # The other checks are needed most when something is quite out of order.
        log.exception("doctor_check_broke", check=check.name)
        return [
            Opinion(
                Verdict.FAIL,
                f"the check itself broke: {type(error).__name__}: {error}",
                "report this with the traceback on stderr; the other checks do not depend on it",
            )
        ]
    return [found] if isinstance(found, Opinion) else found
