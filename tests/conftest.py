"""Shared fixtures: where optional reference material lies, and seeds."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of optional reference data and golden numbers beside the checkout; tests skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference folder at {SHARED}: golden numbers and real images are not part of the project")
    return SHARED
