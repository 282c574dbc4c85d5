"""Sockets that are open at once, and new connections for 1,000 state checks."""

from lab import PEERS, SHARED, Lab, Row, main


def sockets(lab: Lab) -> list[Row]:
    rows = []
    for n in lab.sizes():
        samples = lab.collect([*PEERS, *SHARED], n)
        most = {name: [float(one.most_open) for one in found] for name, found in samples.items()}
        new = {
            name: [
                sum(window.connections for window in one.windows) * 1000 / max(1, sum(map(one.checks, one.windows)))
                for one in found
            ]
            for name, found in samples.items()
        }
        rows.append(Row(f"most sockets open, N={n:,}", "", "<= 8", most))
        rows.append(Row(f"new connections, N={n:,}", "per 1,000 checks", "<= 1", new))
    return rows


if __name__ == "__main__":
    main(sockets)
