"""Text from outside: Unicode forms, numbers, JSON and YAML with limits, secrets kept out."""
