"""The option `--output`: a ledger as JSON, or as the comment of a pull request."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pytest_llmcost.budgeting.ledger_file import write_file, write_report
from pytest_llmcost.budgeting.report import Report
from pytest_llmcost.reporting.markdown import render_markdown
from pytest_llmcost.settings import parse_report_path


def add_output_option(parser: ArgumentParser, what: str) -> None:
    """Declare `--output`, which may be given more than once."""
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help=f"where to write {what}, or with the suffix .md a pull-request comment; repeatable",
    )


def read_output_paths(arguments: Namespace) -> list[Path]:
    """Return the paths, each with a suffix that names a format."""
    return [parse_report_path(text) for text in arguments.output]


def write_output(report: Report, path: Path) -> None:
    """Write a report in the format that the path's suffix names."""
    if path.suffix == ".json":
        write_report(report, path)
    else:
        write_file(path, [render_markdown(report).encode()])
