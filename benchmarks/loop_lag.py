"""How late the triggerer's event loop runs what is due while the waits go on."""

from lab import PEERS, SHARED, Lab, Row, main


def loop_lag(lab: Lab) -> list[Row]:
    rows = []
    for n in lab.sizes():
        samples = lab.collect(["floor", *PEERS, *SHARED], n)
        lags = {name: [sorted(one.lags) for one in found] for name, found in samples.items()}
        worst = {name: [one[-1] * 1000 for one in found if one] for name, found in lags.items()}
        p99 = {name: [one[int(len(one) * 0.99)] * 1000 for one in found if one] for name, found in lags.items()}
        rows.append(Row(f"loop lag p99, N={n:,}", "ms", "<= 20", p99))
        rows.append(Row(f"loop lag max, N={n:,}", "ms", "<= 100", worst))
        firing = {name: [one.lag_firing * 1000 for one in found] for name, found in samples.items()}
        rows.append(Row(f"loop lag max while all fire, N={n:,}", "ms", "", firing))
    return rows


if __name__ == "__main__":
    main(loop_lag)
