"""The same calls as `Search`, over HTTP to `clipsearch serve`."""
