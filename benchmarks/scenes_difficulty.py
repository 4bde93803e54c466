"""How hard are the scenes? A per-pixel colour classifier against a small U-Net, and other domains.

Run:    OMP_NUM_THREADS=1 python benchmarks/scenes_difficulty.py
Claim:  colour alone doesn't give the class away, context does, and a model trained in one domain
        loses points in the others (docs/scenes.md quotes the figures).

Seeds from 9000 on, which no config and no test set uses. Budgets are iterations, not time.
"""

import argparse
import os
import time

import numpy as np
import torch
from common import record
from torch.nn import functional as F

from swath.core.data.scenes import CLASSES, DOMAINS, VERSION, SceneDataset
from swath.core.models.unet import UNet

TRAIN, TEST = 9000, 9001
BITS = 5  # a colour cube of 32 x 32 x 32


def scenes(domain: str, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, H, W, 3)`` and masks ``(N, H, W)``, uint8."""
    dataset = SceneDataset(256, count, seed, domain)
    found = [dataset.scene(i) for i in range(count)]
    return np.stack([s.image for s in found]), np.stack([s.mask for s in found])


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    k = len(CLASSES)
    flat = truth.ravel().astype(np.int64) * k + prediction.ravel()
    return np.bincount(flat, minlength=k * k).reshape(k, k)


def mean_iou(matrix: np.ndarray) -> float:
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return float(np.mean(100 * matrix.diagonal()[union > 0] / union[union > 0]))


def cells(images: np.ndarray) -> np.ndarray:
    r, g, b = (images[..., c].astype(np.int64) >> (8 - BITS) for c in range(3))
    return (r << 2 * BITS) | (g << BITS) | b


def colour_classifier(images: np.ndarray, masks: np.ndarray, balance: float) -> np.ndarray:
    """The best class for each colour by Bayes' rule; priors to the power of 1 - balance."""
    k = len(CLASSES)
    joint = np.bincount((cells(images) * k + masks).ravel(), minlength=(1 << 3 * BITS) * k)
    joint = joint.reshape(-1, k).astype(np.float64)
    prior = joint.sum(0)
    weighted = joint / np.maximum(prior, 1) ** balance
    weighted[joint.sum(1) == 0] = prior ** (1 - balance)
    best: np.ndarray = weighted.argmax(1)
    return best


def train_unet(images: np.ndarray, masks: np.ndarray, iterations: int) -> torch.nn.Module:
    """128 px crops of the same scenes, in their eight orientations."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = UNet(3, len(CLASSES), width=16, depth=4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=iterations)
    share = np.bincount(masks.ravel(), minlength=len(CLASSES)) / masks.size
    weights = torch.tensor(np.clip(1 / np.sqrt(share + 1e-4), 0, 20), dtype=torch.float32)
    weights /= weights.mean()
    model.train()
    for _ in range(iterations):
        batch = []
        for _ in range(8):
            i, y, x, turn = rng.integers(0, (len(images), 129, 129, 8))
            crop = np.dstack([images[i], masks[i]])[y : y + 128, x : x + 128]
            crop = np.rot90(crop, turn % 4)
            batch.append(crop[:, ::-1] if turn >= 4 else crop)
        data = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
        loss = F.cross_entropy(model(normalise(data[:, :3])), data[:, 3].long(), weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return model.eval()


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images.float() - 120) / 60


@torch.no_grad()
def predict(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).chunk(-(-len(images) // 4))
    return torch.cat([model(normalise(batch)).argmax(1) for batch in batches]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--colour-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    images, masks = scenes("temperate", TRAIN, arguments.train)
    tables = {b: colour_classifier(images, masks, b) for b in (0.0, 0.5, 1.0)}
    start = time.process_time()
    model = None if arguments.colour_only else train_unet(images, masks, arguments.iterations)
    seconds = time.process_time() - start
    rows = []
    for domain in DOMAINS:
        tests, truths = scenes(domain, TEST, arguments.test)
        own_images, own_masks = scenes(domain, TRAIN, arguments.train)
        own = {b: colour_classifier(own_images, own_masks, b) for b in tables}
        pixels = cells(tests)
        row = {
            "test domain": domain,
            "colour, own domain": max(mean_iou(confusion(truths, own[b][pixels])) for b in own),
            "colour, temperate": max(mean_iou(confusion(truths, tables[b][pixels])) for b in own),
        }
        if model is not None:
            matrix = confusion(truths, predict(model, tests))
            row["U-Net, temperate"] = mean_iou(matrix)
            row["pixels right"] = float(100 * matrix.trace() / matrix.sum())
            union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
            iou = matrix.diagonal() / np.maximum(union, 1)
            print(domain, {c: round(float(100 * v), 1) for c, v in zip(CLASSES, iou, strict=True)})
        rows.append(row)
    record(
        "scenes_difficulty",
        rows,
        version=VERSION,
        unit="mIoU over 13 classes, percent",
        settings=vars(arguments),
        unet_cpu_seconds=round(seconds),
    )


if __name__ == "__main__":
    main()
