"""One kind of finding, as the catalogues write it down."""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint_core.audit.findings import Finding, Severity, Subject


@dataclass(frozen=True)
class Entry:
    """One kind of finding; the sentences may hold ``{fields}``."""

    code: str
    severity: Severity
    subject: Subject
    message: str
    effect: str
    cure: str

    def finding(self, *, file: str | None = None, evidence: str = "", **fields: object) -> Finding:
        """The finding with its fields filled in."""
        values = {"file": file, "evidence": evidence, **fields}
        return Finding(
            code=self.code,
            severity=self.severity,
            subject=self.subject,
            message=self.message.format_map(values),
            effect=self.effect.format_map(values),
            cure=self.cure.format_map(values),
            file=file,
            evidence=evidence,
        )
