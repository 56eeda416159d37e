"""The Vespa application package: rendered, compared with what runs, deployed, waited for."""
