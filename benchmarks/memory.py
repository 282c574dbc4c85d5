"""Memory for a wait over TLS: the slope of resident memory between two numbers of waits, each in its own process."""

import statistics

from lab import PEERS, SHARED, Lab, Row, main


def memory(lab: Lab) -> list[Row]:
    few, many = lab.sizes()[:2]
    subjects = ["floor", *PEERS, *SHARED]
    small, large = (lab.collect(subjects, n) for n in (few, many))
    start = {name: statistics.median(one.rss for one in found) for name, found in small.items()}
    values = {name: [(one.rss - start[name]) / (many - few) / 1024 for one in found] for name, found in large.items()}
    return [Row("memory for a wait, TLS", "KB", "<= 16", values)]


if __name__ == "__main__":
    main(memory)
