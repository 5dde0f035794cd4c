"""Folders and tables of images -> records; the benchmark's sets, support sets, and a look into a data set."""

from wordsight.data.benchmark import benchmark_records, canonical_name, has_masks
from wordsight.data.inspect import Inspection, inspect_records
from wordsight.data.manifest import read_manifest, write_manifest
from wordsight.data.records import hash_records, read_as, records_from, records_from_pair
from wordsight.data.support import (
    SupportSet,
    draw_support,
    held_out,
    published_support,
    read_support_file,
    write_support_file,
)

__all__ = [
    "Inspection",
    "SupportSet",
    "benchmark_records",
    "canonical_name",
    "draw_support",
    "has_masks",
    "hash_records",
    "held_out",
    "inspect_records",
    "published_support",
    "read_as",
    "read_manifest",
    "read_support_file",
    "records_from",
    "records_from_pair",
    "write_manifest",
    "write_support_file",
]
