"""Microseconds to write and to read the store of a step: a small one, and two of about 500 kB.

python -m tests.bench.codec
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from pocoflow.codec import dumps, loads

ROUNDS = 7
STORES: dict[str, dict[str, Any]] = {
    "small": {"left": 5, "topic": "tides", "notes": ["a", "b"], "score": 0.5},
    "540 chat turns": {
        "messages": [
            {"role": "user", "content": "word " * 180, "tokens": number, "score": 0.1 * number}
            for number in range(540)
        ]
    },
    "6000 records": {
        "rows": [
            {"id": number, "name": f"name {number}", "tags": ["a", "b", "c"], "at": number * 0.5, "ok": True}
            for number in range(6000)
        ]
    },
}


def best_us(action: Callable[[], object]) -> float:
    """Of several rounds, each as long as it takes to be measured, the quickest: the rest is noise."""
    action()
    calls, rounds = 1, []
    while len(rounds) < ROUNDS:
        began = perf_counter()
        for _ in range(calls):
            action()
        took_s = perf_counter() - began
        if took_s < 0.05:
            calls *= 2
        else:
            rounds.append(took_s / calls * 1e6)
    return min(rounds)


def main() -> None:
    print(f"best of {ROUNDS} rounds, microseconds")
    for name, store in STORES.items():
        text = dumps(store)
        write_us, read_us = best_us(lambda store=store: dumps(store)), best_us(lambda text=text: loads(text))
        print(f"{name:15} {len(text):7} bytes  write {write_us:8.1f}  read {read_us:8.1f}", flush=True)


if __name__ == "__main__":
    main()
