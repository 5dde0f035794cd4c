"""Synthetic medical images with known truth: six sets in the benchmark's layout, and chest x-rays with reports.

They are drawn by seed, no files are shipped. They are for trying, testing and teaching; they know nothing of patients.
"""

from wordsight.data.phantoms.common import Phantom, stream
from wordsight.data.phantoms.report_files import write_report_phantoms
from wordsight.data.phantoms.reports import ReportPhantom, draw_report_phantom
from wordsight.data.phantoms.sets import MASKED, SETS, draw_phantom
from wordsight.data.phantoms.sheet import contact_sheet, report_sheet
from wordsight.data.phantoms.write import write_phantoms

__all__ = [
    "MASKED",
    "SETS",
    "Phantom",
    "ReportPhantom",
    "contact_sheet",
    "draw_phantom",
    "draw_report_phantom",
    "report_sheet",
    "stream",
    "write_phantoms",
    "write_report_phantoms",
]
