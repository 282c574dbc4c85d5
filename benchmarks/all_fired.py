"""From the end of all runs, at one moment, to the last event of their waits."""

from lab import PEERS, SHARED, Lab, Row, main


def all_fired(lab: Lab) -> list[Row]:
    rows = []
    for n in lab.sizes():
        samples = lab.collect(["floor", *PEERS, *SHARED], n)
        values = {name: [one.fired_after[-1] for one in found] for name, found in samples.items()}
        interval = next(iter(samples.values()))[0].interval
        rows.append(Row(f"runs done to all fired, N={n:,}, interval {interval:g} s", "s", "<= interval + 2", values))
    return rows


if __name__ == "__main__":
    main(all_fired)
