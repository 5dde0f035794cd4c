"""The published zero-shot command: `python train_zero.py --obj Liver`."""

import sys

from wordsight.cli.shims import train_zero

if __name__ == "__main__":
    sys.exit(train_zero())
