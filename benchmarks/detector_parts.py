"""Where a detector's time goes: backbone, pyramid, proposals, regions, suppression.

Run:    OMP_NUM_THREADS=1 python benchmarks/detector_parts.py       (a GPU is used if there is one)
Claim:  rotated suppression and rotated IoU aren't among the three largest parts of an inference.

Weights are random, so that all proposals survive to the last step: the worst case for suppression.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from common import record

from swath.core.detection.nms import class_wise_nms
from swath.moe.models.mdf_detector import mdf_detector
from swath.moe.models.oriented_rcnn import OrientedRCNNHead, ProposalSettings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="b")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = mdf_detector(options.size, img_size=options.side).to(device).eval()
    image = torch.randn(1, 3, options.side, options.side, device=device)
    head = model.heads["dota"]
    assert isinstance(head, OrientedRCNNHead)
    head.rpn_head.proposals = ProposalSettings(count=options.proposals)
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, part: Callable[[], Any]) -> Any:
        start = clock()
        found = part()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(clock() - start)
        return found

    @torch.inference_mode()
    def once() -> int:
        maps = timed("backbone", lambda: model.backbone(image, 1))
        features = timed("pyramid", lambda: head.neck(maps))
        scored = timed("proposal layers", lambda: head.rpn_head(features))
        (boxes, _), = timed("proposals, with horizontal suppression",
                            lambda: head.rpn_head.propose(scored))  # fmt: skip
        pooled = timed("features of regions", lambda: head.roi_head.pool(features, [boxes]))
        logits, deltas = timed("region layers", lambda: head.roi_head(pooled))
        scores = logits.softmax(1)[:, :-1]
        refined = head.roi_head.coder.decode(boxes, deltas)
        # the random head scores all classes alike: the threshold lets everything pass
        found = timed("rotated suppression", lambda: class_wise_nms(refined, scores, 0.0, 0.1))
        return len(found)

    once()
    seconds.clear()
    kept = [once() for _ in range(options.repeats)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    total = sum(medians.values())
    rows = [
        {"part": name, "seconds": value, "share": value / total}
        for name, value in sorted(medians.items(), key=lambda item: -item[1])
    ]
    clock_name = "time" if device == "cuda" else "CPU time"
    record(f"detector_parts_{device}", rows, **vars(options), objects=kept[0], clock=clock_name)


if __name__ == "__main__":
    main()
