"""The fold from findings to one verdict."""

from __future__ import annotations

import itertools

import pytest

from checkpoint_core.audit.findings import Finding, Severity, Subject, Verdict, by_weight, fold

VERDICTS = {
    Severity.INFO: Verdict.READY,
    Severity.WARNING: Verdict.READY_WITH_WARNINGS,
    Severity.FIXABLE: Verdict.NEEDS_FIX,
    Severity.UNKNOWN: Verdict.UNKNOWN,
    Severity.ERROR: Verdict.DAMAGED,
    Severity.SAVING: Verdict.SAVING,
}
#: From the weakest to the strongest.
ORDER = list(VERDICTS)


def made(severity: Severity, code: str = "some-code") -> Finding:
    return Finding(code, severity, Subject.STATE, "Cause.", "Effect.", "Cure.")


def test_nothing_found_is_ready() -> None:
    assert fold([]) is Verdict.READY


@pytest.mark.parametrize("severity", list(Severity))
def test_each_severity_leads_to_its_verdict(severity: Severity) -> None:
    assert fold([made(severity)]) is VERDICTS[severity]


@pytest.mark.parametrize(("weaker", "stronger"), list(itertools.combinations(ORDER, 2)))
def test_the_stronger_decides_in_any_order(weaker: Severity, stronger: Severity) -> None:
    pair = [made(weaker), made(stronger)]
    assert fold(pair) is fold(pair[::-1]) is VERDICTS[stronger]


def test_what_could_not_be_told_never_resumes() -> None:
    assert [verdict for verdict in Verdict if verdict.resumes] == [Verdict.READY, Verdict.READY_WITH_WARNINGS]


def test_the_deciding_finding_comes_first_and_the_rest_keep_their_order() -> None:
    given = [
        made(Severity.INFO, "a"),
        made(Severity.WARNING, "b"),
        made(Severity.FIXABLE, "c"),
        made(Severity.WARNING, "d"),
        made(Severity.ERROR, "e"),
        made(Severity.INFO, "f"),
    ]
    assert "".join(found.code for found in by_weight(given)) == "ecbdaf"
    assert VERDICTS[by_weight(given)[0].severity] is fold(given)


def test_every_severity_has_a_rank() -> None:
    shuffled = [made(severity) for severity in ORDER]
    assert [found.severity for found in by_weight(shuffled)] == ORDER[::-1]
