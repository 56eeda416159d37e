"""What a run is asked to do: settings, their mapping from YAML, and the published recipes."""
