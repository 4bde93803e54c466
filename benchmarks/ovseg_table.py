"""Time of a pass, parameters, and trained parameters of all open-vocabulary models in one table.

Run:  OMP_NUM_THREADS=1 python benchmarks/ovseg_table.py [--device cuda] [--only RSKT-Seg]

The columns of the table in RSKT-Seg's README. A pass is the evaluation of one image on the grid of
24 x 24 cells that all are published with (CLIP sees 384 px, of SED 768 px), 40 classes, texts
encoded before, random weights, float32: on a CPU in processor time of one thread, on a GPU between
two synchronisations; the best of the rounds.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import record
from ovseg_speed import filled
from torch.nn import functional as F

from swath.kernels import cost_volume
from swath.ovseg.models.catseg import catseg
from swath.ovseg.models.gsnet import gsnet
from swath.ovseg.models.rskt_seg import rskt_seg
from swath.ovseg.models.sed import sed

CLASSES, GRID, SIZE = 40, (24, 24), 384
MODELS: dict[str, Callable[[], Any]] = {
    "CAT-Seg, ViT-B/16": catseg,
    "CAT-Seg, ViT-B/16, all of CLIP's blocks trained": lambda: catseg(finetune="full"),
    "CAT-Seg, ViT-B/16, four directions (OVRS without its gates)": lambda: rskt_seg(
        num_layers=2, use_efficient=False, use_remote_clip=False, use_remote_dino=False
    ),
    "SED, ConvNeXt-B": sed,
    "GSNet, ViT-B/16": gsnet,
    "RSKT-Seg, ViT-B/16, 2 layers": lambda: rskt_seg(num_layers=2),
    "RSKT-Seg, ViT-B/16, 3 layers": rskt_seg,
    "RSKT-Seg, ViT-B/16, 5 layers": lambda: rskt_seg(num_layers=5),
}


@torch.inference_mode()
def pass_ms(model: Any, device: torch.device, rounds: int) -> float:
    """Milliseconds of one pass."""
    filled(model)
    model.to(device)
    side = GRID[0] * model.cell
    image = torch.randn(1, 3, side, side, device=device)
    text = torch.randn(CLASSES, model.templates, model.clip.embed_dim, device=device)
    text = F.normalize(text, dim=-1)
    for count in (1, 4):  # kernels are compiled at their first call
        maps = [torch.randn(1, 8, 2, 2, device=device) for _ in range(count)]
        cost_volume(maps, text[:2, :, :8], range(count), layout="images")
    durations = []
    for _ in range(rounds):
        begin = now(device)
        model.score(image, text, GRID)
        durations.append(now(device) - begin)
    return 1e3 * min(durations)


def now(device: torch.device) -> float:
    """Processor seconds, or those of a clock when the GPU has done its work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="models whose name holds this; nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device, rows = torch.device(arguments.device), []
    for name, build in MODELS.items():
        if arguments.only not in name:
            continue
        with torch.device("meta"):
            model = build().eval()
        total = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(
            {
                "model": name,
                "ms per pass": pass_ms(model, device, arguments.rounds),
                "parameters, M": total / 1e6,
                "trained, M": trained / 1e6,
            }
        )
        print(rows[-1], flush=True)
        del model
    if not arguments.only:
        record(f"ovseg_table_{device.type}", rows, classes=CLASSES, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
