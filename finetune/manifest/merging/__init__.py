"""From rows to records: those of one image are merged, in bounded memory."""
