"""Nexmark: a generator of auction events, the queries as flow files, and their answers in DuckDB."""
