"""How many scenes a second one core renders: with image and mask alone, and with every label.

Run:    OMP_NUM_THREADS=1 python benchmarks/scenes.py
Aim:    150 scenes/s a core at 256 px. CPU time is counted and each scene's best of several passes
        taken, so that other work on the machine matters little; on hyper-threads it still does.
"""

import time

from common import record

from swath.core.data.scenes import DOMAINS, VERSION, Scene, render

PASSES = 4


def every_label(scene: Scene) -> None:
    """Make what a scene makes only when it is asked for."""
    _ = scene.instances, scene.boxes, scene.labels, scene.caption, scene.expressions


def seconds(seed: int, size: int, domain: str) -> tuple[float, float]:
    """CPU time of one scene, with its mask and with every label."""
    start = time.process_time()
    scene = render(seed, size, domain)
    _ = scene.image
    masked = time.process_time()
    every_label(scene)
    return masked - start, time.process_time() - start


def main() -> None:
    rows = []
    for size, count in ((256, 40), (128, 60)):
        for domain in DOMAINS:
            every_label(render(0, size, domain))
            best = [(float("inf"), float("inf"))] * count
            for _ in range(PASSES):
                for i in range(count):
                    mask, every = seconds((9002 << 32) + i, size, domain)
                    best[i] = min(best[i][0], mask), min(best[i][1], every)
            rows.append(
                {
                    "domain": domain,
                    "size": size,
                    "with masks, a CPU second": count / sum(mask for mask, _ in best),
                    "with every label, a CPU second": count / sum(every for _, every in best),
                }
            )
    record("scenes", rows, version=VERSION, passes=PASSES)


if __name__ == "__main__":
    main()
