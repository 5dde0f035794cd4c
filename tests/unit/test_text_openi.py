"""Open-I reports: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import DataError
from wordsight.text.openi_reports import MAX_BYTES, OpenIReport, read_openi_report

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR9"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">Heart size
   normal.</AbstractText>
<AbstractText Label="IMPRESSION"/>
</Abstract></Article></MedlineCitation>
<MeSH><major>Cardiomegaly/mild</major><major>Nodule</major><automatic>nodules</automatic></MeSH>
<parentImage id="CXR9_IM-1-1001"><caption>x</caption></parentImage><parentImage id="CXR9_IM-1-2001"/>
</eCitation>"""


def test_a_report_is_read() -> None:
    assert read_openi_report(REPORT.encode()) == OpenIReport(
        id="CXR9",
        indication="Cough & fever",
        comparison="None.",
        findings="Heart size normal.",
        impression="",
        majors=("Cardiomegaly/mild", "Nodule"),
        automatic=("nodules",),
        images=("CXR9_IM-1-1001", "CXR9_IM-1-2001"),
    )
    assert read_openi_report(REPORT.encode()).text == "Heart size normal."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_expand(encoding: str) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    text = REPORT.replace("<eCitation>", bomb + "<eCitation>").replace("Cough", "&b;")
    text = text.replace('encoding="utf-8"', f'encoding="{encoding}"')
    with pytest.raises(DataError, match="without DOCTYPE"):
        read_openi_report(text.encode(encoding))


def test_external_document_types_are_refused() -> None:
    with pytest.raises(DataError, match="entities are refused"):
        read_openi_report(REPORT.replace("<eCitation>", '<!DOCTYPE x SYSTEM "file:///etc/passwd"><eCitation>').encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the XML of an Open-I report"),
        (b"<eCitation>", "expected the XML of an Open-I report"),
        (b"<eCitation><uId id='1'/>&undefined;</eCitation>", "expected the XML of an Open-I report"),
        (b"<?xml version='1.0' encoding='klingon'?><eCitation/>", "expected the XML of an Open-I report"),
        (b"<eCitation/>", "with <uId id=...>"),
        (b"<html><uId id='1'/></html>", "got <html>"),
        (b" " * (MAX_BYTES + 1), "at most 1,048,576 bytes"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_openi_report(content)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, len(REPORT) - 1), st.binary(min_size=1, max_size=3))
def test_damage_gives_a_report_or_a_clear_error(position: int, noise: bytes) -> None:
    content = REPORT.encode()
    try:
        report = read_openi_report(content[:position] + noise + content[position + len(noise) :])
    except DataError:
        return
    assert report.id
