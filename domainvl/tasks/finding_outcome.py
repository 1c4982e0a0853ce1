"""Class probabilities that are counted a second time, under a protocol of finding classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domainvl.data.manifest import Record
from domainvl.evaluation import Predictions
from domainvl.evaluation.findings import FindingProtocol, FindingResult, evaluate_findings
from domainvl.evaluation.outcome import Classified
from domainvl.evaluation.result import Evaluation
from domainvl.evaluation.table import print_findings, print_table


@dataclass(frozen=True)
class FindingEvaluation:
    """A test as every test is counted, and under a protocol.

    Attributes:
        evaluation: Of all classes and rows.
        findings: Under the protocol.
    """

    evaluation: Evaluation
    findings: FindingResult

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return self.evaluation.as_dict() | {"findings": self.findings.as_dict()}


class FindingOutcome(Classified):
    """Probabilities of the test, and those of validation, which thresholds are chosen on.

    Args:
        protocol: What is counted.
        test: What both models said of the test.
        validation: What they said of validation.
        records: The data set's, in which reconstructions of a scan share patient and study.
    """

    def __init__(
        self, protocol: FindingProtocol, test: Predictions, validation: Predictions, records: Sequence[Record]
    ) -> None:
        super().__init__(test)
        self._scans = {record.id: (record.patient, record.study or record.id) for record in records}
        self._protocol = protocol
        self._test, self._validation = self._applied(test), self._applied(validation)

    def _applied(self, predictions: Predictions) -> Predictions:
        return self._protocol.apply(predictions, ["\n".join(self._scans[name]) for name in predictions.ids])

    def measure(self, seed: int) -> Any:
        """See `Outcome`."""
        found = evaluate_findings(self._protocol, self._test, self._validation, seed=seed)
        return FindingEvaluation(super().measure(seed), found)

    def show(self, measured: Any) -> None:
        """See `Outcome`."""
        print_table(measured.evaluation)
        print_findings(measured.findings)
