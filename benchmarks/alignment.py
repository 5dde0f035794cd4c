"""How well the rules of prompt alignment agree with a reader: precision and recall per status and per finding.

`python benchmarks/alignment.py --data DATA` reads DATA/reports/openi_reports.tgz and
tests/labels/openi_alignment.csv, two sets of 150 sentences, drawn by seed (75 at random, 75 with a word for a
finding) and labelled by reading them, before the rules were run on them. `held out` was drawn and labelled when the
rules were finished. `development` was labelled before the first rule, but by their author, who knew its sentences
while writing: it says how well the rules remember. `--disagreements` lists where rules and reader differ.

`--headings` compares whole reports with the MeSH headings that the collection's annotators gave them: a finding
counts as read when the rules call it present or uncertain. Annotators also left findings out, so low precision is not
all error.
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

from wordsight.text.agreement import Agreement, agreement, read_labels
from wordsight.text.alignment import Status, align_report, align_sentence
from wordsight.text.openi_reports import read_openi_report
from wordsight.text.sentences import report_sentences

HEADINGS = {
    "cardiomegaly": ("Cardiomegaly",),
    "atelectasis": ("Pulmonary Atelectasis",),
    "pleural effusion": ("Pleural Effusion",),
    "pneumothorax": ("Pneumothorax", "Hydropneumothorax"),
    "opacity": ("Opacity", "Airspace Disease", "Density"),
    "nodule": ("Nodule",),
    "mass": ("Mass",),
    "granuloma": ("Granuloma", "Calcified Granuloma", "Granulomatous Disease"),
    "calcification": ("Calcinosis",),
    "fibrosis": ("Cicatrix", "Pulmonary Fibrosis"),
    "pneumonia": ("Pneumonia",),
    "infiltrate": ("Infiltrate",),
    "consolidation": ("Consolidation",),
    "pulmonary edema": ("Pulmonary Edema",),
    "vascular congestion": ("Pulmonary Congestion",),
    "emphysema": ("Emphysema", "Pulmonary Emphysema"),
    "obstructive disease": ("Pulmonary Disease, Chronic Obstructive",),
    "hernia": ("Hernia, Hiatal",),
    "fracture": ("Fractures, Bone",),
    "scoliosis": ("Scoliosis",),
    "atherosclerosis": ("Atherosclerosis",),
    "low lung volumes": ("Lung/hypoinflation",),
    "hyperinflation": ("Lung/hyperdistention", "Lung, Hyperlucent"),
    "tortuous aorta": ("Aorta/tortuous", "Aorta, Thoracic/tortuous"),
}
"""Finding -> the headings that mean it."""
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


def compare_headings(archive: Path) -> None:
    """Print per finding how often annotators and rules see it in a report."""
    counts = {finding: [0, 0, 0] for finding in HEADINGS}
    with tarfile.open(archive) as tar:
        streams = (tar.extractfile(member) for member in tar if member.name.endswith(".xml"))
        for report in (read_openi_report(stream.read()) for stream in streams if stream is not None):
            read = {s.finding for s in align_report(report.text) if s.status is not Status.ABSENT}
            for finding, headings in HEADINGS.items():
                given = any(f"{major}/".startswith(f"{h}/") for major in report.majors for h in headings)
                for position, met in enumerate((given, finding in read, given and finding in read)):
                    counts[finding][position] += met
    print("| finding | headings | rules | precision | recall |\n|---|---|---|---|---|")
    for finding, numbers in counts.items():
        found = Agreement(*numbers)
        print(f"| {finding} | {found.labelled} | {found.found} | {found.precision:.3f} | {found.recall:.3f} |")
    total = Agreement(*(sum(numbers[i] for numbers in counts.values()) for i in range(3)))
    print(f"| all | {total.labelled} | {total.found} | {total.precision:.3f} | {total.recall:.3f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=["held out", "development"], default="held out")
    parser.add_argument("--disagreements", action="store_true")
    parser.add_argument("--headings", action="store_true")
    options = parser.parse_args()
    if options.headings:
        compare_headings(options.data / "reports" / "openi_reports.tgz")
        return
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
