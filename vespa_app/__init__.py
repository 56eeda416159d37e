"""The Vespa application package, as data: `clipsearch deploy` fills it in and deploys it."""
