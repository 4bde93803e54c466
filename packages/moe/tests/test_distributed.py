"""Two processes, started by torchrun as a user would; neither sees every task in a step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

# a model without batch norm and dropout: whole steps can then be compared to rounding
SEGMENTATION = """
from swath.core.data.scenes import CLASS_SETS, SceneDataset
from swath.core.engine.pieces import adamw_cosine
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.moe.data import MultiDataset
from swath.moe.models.mdf import MDFSegmenter
from swath.moe.models.vit_moe import ViTMoE
from swath.moe.task import MultiDatasetSegmentationTask

SETS = {name: list(CLASS_SETS[name].classes) for name in ("landcover", "urban")}

model = Spec(
    MDFSegmenter,
    backbone=Spec(
        ViTMoE, num_experts=2, part_features=8, img_size=32, embed_dims=32, num_layers=4,
        num_heads=2, out_indices=[0, 1, 2, 3], drop_path_rate=0.0, checkpointing=True,
    ),
    tasks={name: len(classes) for name, classes in SETS.items()},
    width=16,
    norm="gn",
    dropout=0.0,
)
task = Spec(
    MultiDatasetSegmentationTask,
    tasks={name: Spec(SegmentationTask, classes=classes) for name, classes in SETS.items()},
)
train = Spec(
    MultiDataset,
    parts={name: Spec(SceneDataset, size=32, count=4, class_set=name) for name in SETS},
)
optimizer = adamw_cosine(lr=1e-3)
iterations = 4
batch_size = 1
num_workers = 0
checkpoint_every = 4
find_unused_parameters = False
"""

DETECTION = """
from swath.core.data.scenes import SceneObjects
from swath.core.detection.task import DetectionTask
from swath.core.engine.pieces import adamw_cosine
from swath.core.spec import Spec
from swath.moe.data import MultiDataset
from swath.moe.models.mdf_detector import MDFDetector
from swath.moe.models.oriented_rcnn import ProposalSettings
from swath.moe.models.vit_moe import ViTMoE
from swath.moe.detection_task import MultiDatasetDetectionTask

SETS = {"urban": ["building", "vehicle"], "coastal": ["ship", "vehicle", "building"]}

model = Spec(
    MDFDetector,
    backbone=Spec(
        ViTMoE, num_experts=2, part_features=8, img_size=64, embed_dims=32, num_layers=4,
        num_heads=2, out_indices=[0, 1, 2, 3], drop_path_rate=0.0, checkpointing=True,
    ),
    tasks={name: len(classes) for name, classes in SETS.items()},
    channels=16,
    fc_channels=32,
    anchor_scale=4.0,
    proposals=Spec(ProposalSettings, before_nms=50, count=50),
    rpn_samples=100_000,  # no random choice, which processes would make differently
    roi_samples=100_000,
)
task = Spec(
    MultiDatasetDetectionTask,
    tasks={name: Spec(DetectionTask, classes=classes) for name, classes in SETS.items()},
)
train = Spec(
    MultiDataset,
    parts={
        name: Spec(SceneObjects, classes=classes, size=64, count=4, domain=name)
        for name, classes in SETS.items()
    },
)
optimizer = adamw_cosine(lr=1e-3)
iterations = 3
batch_size = 1
num_workers = 0
checkpoint_every = 3
find_unused_parameters = False
"""


def trained(recipe: Path, run: str, *launcher: str, overrides: tuple[str, ...] = ()) -> Path:
    command = [str(Path(sys.executable).with_name("swath")), "train", str(recipe)]
    command += ["--run-dir", str(recipe.parent / run), *overrides]
    done = subprocess.run(
        [*launcher, *command],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return recipe.parent / run / "last.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("text", [SEGMENTATION, DETECTION], ids=["segmentation", "detection"])
def test_two_processes_of_one_task_each_do_what_one_process_does_with_both(
    tmp_path: Path, text: str
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(text)
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python",
        "--nproc-per-node", "2",
    )  # fmt: skip
    two = load_file(trained(recipe, "two", *torchrun))
    one = load_file(trained(recipe, "one", overrides=("--set", "accumulate=2")))
    assert one.keys() == two.keys()
    worst = max(float((one[k] - two[k]).abs().max()) for k in one)
    print(f"largest difference of a weight: {worst:.1e}")
    assert worst < 1e-6
