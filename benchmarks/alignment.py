"""How well the rules of prompt alignment agree with a reader: precision and recall per status and per finding.

`python benchmarks/alignment.py --data DATA` reads DATA/reports/openi_reports.tgz and
tests/labels/openi_alignment.csv, two sets of 150 sentences, drawn by seed (75 at random, 75 with a word for a
finding) and labelled by reading them, before the rules were run on them. `held out` was drawn and labelled when the
rules were finished. `development` was labelled before the first rule, but by their author, who knew its sentences
while writing: it says how well the rules remember. `--disagreements` lists where rules and reader differ.
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

from wordsight.text.agreement import agreement, read_labels
from wordsight.text.alignment import align_sentence
from wordsight.text.openi_reports import read_openi_report
from wordsight.text.sentences import report_sentences

LABELS = Path(__file__).resolve().parents[1] / "tests" / "labels" / "openi_alignment.csv"


def sentences_of(archive: Path, wanted: set[str]) -> dict[str, list[str]]:
    """Report number -> its sentences with de-identification marks."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).stem
            if name in wanted and (stream := tar.extractfile(member)) is not None:
                found[name] = report_sentences(read_openi_report(stream.read()).text, marks="keep")
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=["held out", "development"], default="held out")
    parser.add_argument("--disagreements", action="store_true")
    options = parser.parse_args()
    labelled = [row for row in read_labels(LABELS) if row.group == options.set]
    texts = sentences_of(options.data / "reports" / "openi_reports.tgz", {row.report for row in labelled})
    pairs = [(row.labels, align_sentence(texts[row.report][row.sentence])) for row in labelled]
    for by in ("status", "finding"):
        print(f"| {by} | labelled | found | precision | recall |\n|---|---|---|---|---|")
        for name, counts in agreement(pairs, by).items():
            numbers = f"{counts.labelled} | {counts.found} | {counts.precision:.3f} | {counts.recall:.3f}"
            print(f"| {name} | {numbers} |")
        print()
    exact = sum(labels == {(s.finding, s.status) for s in found} for labels, found in pairs)
    print(f"{exact} of {len(pairs)} sentences agree in every label")
    if options.disagreements:
        for row, (labels, found) in zip(labelled, pairs, strict=True):
            got = {(s.finding, s.status) for s in found}
            if got != labels:
                print(f"{row.report} {row.sentence}: missed {sorted(labels - got)}, surplus {sorted(got - labels)}")


if __name__ == "__main__":
    main()
