"""The story of one event: why it is where it is, what was done with it, and what came of it."""
