"""Requests for an interval while nothing changes."""

from lab import PEERS, SHARED, Lab, Row, main


def requests_sent(lab: Lab) -> list[Row]:
    rows = []
    for n in lab.sizes():
        samples = lab.collect([*PEERS, *SHARED], n)
        values = {
            name: [window.requests * one.interval / window.seconds for one in found for window in one.windows]
            for name, found in samples.items()
        }
        rows.append(Row(f"requests, N={n:,}", "per interval", "<= 2", values))
    return rows


if __name__ == "__main__":
    main(requests_sent)
