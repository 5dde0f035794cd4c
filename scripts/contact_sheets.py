"""Write docs/images/phantoms-<name>.png for all phantom sets.

python scripts/contact_sheets.py [--columns 6] [--seed 0] [--out docs/images]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from wordsight.data.phantoms import SETS, contact_sheet
from wordsight.files import atomic_path


def main() -> None:
    """Draw and save the sheets at half size, which keeps the pages of the documentation light."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "images")
    options = parser.parse_args()
    for name in SETS:
        sheet = Image.fromarray(contact_sheet(name, options.seed, options.columns)).reduce(2)
        target = options.out / f"phantoms-{name}.png"
        with atomic_path(target) as temporary:
            sheet.save(temporary, format="PNG", optimize=True)
        print(target, f"{target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
