"""Pages to look at: one self-contained HTML file per run. Nothing here loads a model unless pictures are asked for."""

from domainvl.report.report import write_report

__all__ = ["write_report"]
