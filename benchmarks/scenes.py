"""How many scenes a second one core renders, with every label.

Run:    OMP_NUM_THREADS=1 python benchmarks/scenes.py
Aim:    150 scenes/s a core at 256 px. CPU time is counted, so that other work on the machine
        matters little; on hyper-threads it still does.
"""

import time

from common import record

from swath.core.data.scenes import DOMAINS, VERSION, render


def main() -> None:
    rows = []
    for size, count in ((256, 120), (128, 240)):
        for domain in DOMAINS:
            render(0, size, domain)
            wall, cpu = time.perf_counter(), time.process_time()
            for seed in range(count):
                render((9002 << 32) + seed, size, domain)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            rows.append(
                {
                    "domain": domain,
                    "size": size,
                    "scenes a CPU second": count / cpu,
                    "scenes a second": count / wall,
                }
            )
    record("scenes", rows, version=VERSION)


if __name__ == "__main__":
    main()
