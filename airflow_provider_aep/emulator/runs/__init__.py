"""Dataflow runs: when one starts, what it reports, the files it writes."""
