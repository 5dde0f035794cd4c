"""Published data sets as they are shipped: tables of images with reports, and label files."""
