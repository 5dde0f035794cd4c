"""Shared fixtures: where optional reference material lies; and what examples property tests draw."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the same examples in every run: a test fails because something changed; WORDSIGHT_EXAMPLES=random looks for new ones
settings.register_profile("same", derandomize=True)
if os.environ.get("WORDSIGHT_EXAMPLES") != "random":
    settings.load_profile("same")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of optional reference data and golden numbers beside the checkout; tests skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference folder at {SHARED}: golden numbers and real images are not part of the project")
    return SHARED
