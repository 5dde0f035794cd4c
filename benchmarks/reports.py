"""Speed of splitting and aligning reports on one core.

`python benchmarks/reports.py --data DATA` reads DATA/reports/openi_reports.tgz, prints reports per second for reading
the XML, splitting into sentences, and splitting with alignment (each from cold caches), and how often each finding
occurs. `--show N` prints the statements of N reports drawn by `--seed`.
"""

from __future__ import annotations

import argparse
import random
import tarfile
import time
from collections import Counter
from pathlib import Path

from wordsight.text.alignment import align_report, align_sentence
from wordsight.text.openi_reports import OpenIReport, read_openi_report
from wordsight.text.sentences import report_sentences


def contents(archive: Path) -> list[bytes]:
    """The XML files of an archive."""
    with tarfile.open(archive) as tar:
        streams = (tar.extractfile(member) for member in tar if member.name.endswith(".xml"))
        return [stream.read() for stream in streams if stream is not None]


def show(report: OpenIReport) -> None:
    """Print every sentence with what the rules read in it."""
    print(f"## {report.id}")
    for sentence in report_sentences(report.text, marks="keep"):
        print(f"  {sentence}\n      {'; '.join(s.sentence() for s in align_sentence(sentence)) or '-'}")


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = contents(options.data / "reports" / "openi_reports.tgz")
    align_sentence("")  # the tables are compiled once
    start = time.perf_counter()
    reports = [read_openi_report(content) for content in files]
    read = time.perf_counter()
    sentences = sum(len(report_sentences(report.text)) for report in reports)
    split = time.perf_counter()
    statements = [statement for report in reports for statement in align_report(report.text)]
    aligned = time.perf_counter()
    for name, seconds in (
        ("read XML", read - start),
        ("split into sentences", split - read),
        ("split and align", aligned - split),
    ):
        print(f"{name}: {len(reports) / seconds:,.0f} reports/s")
    print(f"{len(reports):,} reports, {sentences:,} sentences, {len(statements):,} statements")
    for (finding, status), count in Counter((s.finding, str(s.status)) for s in statements).most_common(30):
        print(f"  {count:5,} {finding}: {status}")
    for report in random.Random(options.seed).sample(reports, options.show):
        show(report)


if __name__ == "__main__":
    main()
