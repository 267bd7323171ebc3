"""Carrying everything that a log holds to another log: from a data folder to Kafka, back, or between any two of them."""
