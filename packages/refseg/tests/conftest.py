"""A model so small that asking it takes milliseconds."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from swath.refseg.data.scenes import VOCABULARY
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.predictor import RemoteSAMPredictor
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces

torch.set_num_threads(1)

SIDE = 64

BERT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
}


def tiny(**options: object) -> RemoteSAM:
    """With statistics and norms that differ from their beginnings, as after training."""
    torch.manual_seed(0)
    arguments: dict[str, object] = {
        "embed_dim": 8,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 1, 2, 2),
        "window_size": 3,
        "fusion_heads": (1, 2, 1, 1),
        "grid": 2,
        "bert": BERT,
    }
    model = RemoteSAM(**(arguments | options))  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "fc_theta" in name or "fc_alpha" in name or "word_embeddings" in name:
                parameter.normal_(std=0.5)
        model.classifier.conv1_1.weight.normal_()
    return model.eval()


@pytest.fixture
def build() -> Callable[..., RemoteSAM]:
    """Builds the small model with other arguments."""
    return tiny


@pytest.fixture
def task() -> ReferringTask:
    return ReferringTask(WordPieces(VOCABULARY), input_size=SIDE)


@pytest.fixture
def model() -> RemoteSAM:
    return tiny()


@pytest.fixture
def predictor(model: RemoteSAM, task: ReferringTask) -> RemoteSAMPredictor:
    return RemoteSAMPredictor(model, task)
