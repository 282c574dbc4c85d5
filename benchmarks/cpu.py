"""CPU of the client process for 1,000 state checks: learning once, for each of 1,000 waits, whether its run is done."""

from lab import PEERS, SHARED, Lab, Row, main, uses_tls


def cpu(lab: Lab) -> list[Row]:
    rows = []
    for n in lab.sizes():
        samples = lab.collect([*PEERS, *SHARED], n)
        values = {
            name: [
                window.cpu * 1000 / one.checks(window) for one in found for window in one.windows if one.checks(window)
            ]
            for name, found in samples.items()
        }
        tls = uses_tls(n)
        goal = "<= 0.10" if tls else "<= 0.06"
        rows.append(Row(f"client CPU, N={n:,}, {'TLS' if tls else 'plain'}", "s / 1,000 checks", goal, values))
    return rows


if __name__ == "__main__":
    main(cpu)
