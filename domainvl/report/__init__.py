"""Pages to look at: one self-contained HTML file per run. Nothing here loads a model unless pictures are asked for."""

from domainvl.report.pictures import Seen
from domainvl.report.record import Record, has_page
from domainvl.report.report import pictured, write_report

__all__ = ["Record", "Seen", "has_page", "pictured", "write_report"]
