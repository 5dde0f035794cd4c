"""The published few-shot command: `python train_few.py --obj Brain --shot 4`."""

import sys

from wordsight.cli.shims import train_few

if __name__ == "__main__":
    sys.exit(train_few())
