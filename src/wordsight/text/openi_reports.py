"""One report of the Open-I (Indiana University) chest x-ray collection, from the bytes of its XML file."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from wordsight.errors import DataError

MAX_BYTES = 1 << 20
"""Real files have about 10 KB."""


@dataclass(frozen=True, slots=True)
class OpenIReport:
    """What a report says and which images it is about.

    majors: MeSH headings given by annotators ("Cardiomegaly/mild", or "normal"); automatic: those a program found.
    images: ids as in the file names of the images, "CXR7_IM-2263-1001".
    """

    id: str
    indication: str
    comparison: str
    findings: str
    impression: str
    majors: tuple[str, ...]
    automatic: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def text(self) -> str:
        """Findings and impression as two paragraphs; "" where a report has neither."""
        return "\n\n".join(filter(None, (self.findings, self.impression)))


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities need a document type declaration, so refusing that refuses every expansion before it is read."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError(f"expected a report without DOCTYPE, got <!DOCTYPE {name}>: entities are refused. Remove it.")


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None else " ".join("".join(element.itertext()).split())


def read_openi_report(content: bytes) -> OpenIReport:
    """Read one XML report; white space within texts is collapsed, missing sections are "".

    Raises DataError for more than MAX_BYTES bytes, a DOCTYPE, malformed XML or another kind of document.
    """
    if len(content) > MAX_BYTES:
        raise DataError(f"expected a report of at most {MAX_BYTES:,} bytes, got {len(content):,}. Is it one report?")
    try:
        root = ElementTree.fromstring(content, parser=ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"expected the XML of an Open-I report, got {error}. Check the file.") from error
    identity = root.find("uId")
    if root.tag != "eCitation" or identity is None or not identity.get("id"):
        raise DataError(f"expected an Open-I report (<eCitation> with <uId id=...>), got <{root.tag}>. Check the file.")
    sections = {e.get("Label", "").upper(): _text(e) for e in root.iter("AbstractText")}
    return OpenIReport(
        id=identity.get("id", ""),
        indication=sections.get("INDICATION", ""),
        comparison=sections.get("COMPARISON", ""),
        findings=sections.get("FINDINGS", ""),
        impression=sections.get("IMPRESSION", ""),
        majors=tuple(filter(None, map(_text, root.iterfind("MeSH/major")))),
        automatic=tuple(filter(None, map(_text, root.iterfind("MeSH/automatic")))),
        images=tuple(image for e in root.iter("parentImage") if (image := e.get("id"))),
    )
