"""Results for readers: text tables, and one self-contained HTML page."""

from seqdistill.report.inputs import (
    ReportInput,
    SystemInput,
    read_folder,
    read_manifest,
    read_system,
)
from seqdistill.report.page import render_report, write_report
from seqdistill.report.tables import format_estimate, format_table, ood_table

__all__ = [
    "ReportInput",
    "SystemInput",
    "format_estimate",
    "format_table",
    "ood_table",
    "read_folder",
    "read_manifest",
    "read_system",
    "render_report",
    "write_report",
]
