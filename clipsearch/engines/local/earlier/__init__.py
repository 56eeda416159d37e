"""An index of the format before: a table of LanceDB, and a snapshot of it for searching."""
