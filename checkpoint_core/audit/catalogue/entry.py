"""One kind of finding, as the catalogues write it down."""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint_core.audit.findings import Finding, FindingKind, Severity, StatePart, Subject


@dataclass(frozen=True)
class Entry:
    """One kind of finding; the sentences may hold ``{fields}``.

    ``kind`` and ``part`` say for programs what the code says for people; ``None`` where no rule asks for it.
    """

    code: str
    severity: Severity
    subject: Subject
    message: str
    effect: str
    cure: str
    kind: FindingKind | None = None
    part: StatePart | None = None

    def finding(
        self, *, file: str | None = None, evidence: str | tuple[str, ...] = "", **fields: object
    ) -> Finding:
        """The finding with its fields filled in. Names given as evidence are kept, and listed in its text."""
        names = evidence if isinstance(evidence, tuple) else ()
        shown = evidence if isinstance(evidence, str) else ", ".join(evidence)
        values = {"file": file, "evidence": shown, **fields}
        return Finding(
            code=self.code,
            severity=self.severity,
            subject=self.subject,
            message=self.message.format_map(values),
            effect=self.effect.format_map(values),
            cure=self.cure.format_map(values),
            file=file,
            evidence=shown,
            kind=self.kind,
            part=self.part,
            names=names,
        )
