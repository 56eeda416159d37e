"""How well captions and images find each other: figures, intervals, plots."""
