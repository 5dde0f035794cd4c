"""What tests of whole studies share."""

QUICK = ["--settings.image_size", "56", "--epochs", "1", "--bootstrap", "20", "--device", "cpu"]
"""Options that make a training of the small backbone take a second or two."""
