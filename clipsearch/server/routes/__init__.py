"""What the service answers: a file a group of addresses. Handlers hold no search logic."""
