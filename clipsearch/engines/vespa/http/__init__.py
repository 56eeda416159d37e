"""HTTP to Vespa's servers: one deadline for an answer, credentials, and a throttle."""
