"""Towers begin with files in the formats that they are published in."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swath.core.errors import CheckpointError, UnsafeCheckpointError
from swath.ovseg.clip import clip_arguments, remap_clip_keys
from swath.ovseg.models.catseg import catseg
from swath.ovseg.models.towers import clip_size, pretrained
from swath.ovseg.torchscript import is_torchscript, read_torchscript


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP's state as it is published, with packed attention and three scalars."""
    out = {}
    for name, value in state.items():
        if "q_proj_weight" in name:
            names = [name.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
            packed_name = name.replace("q_proj_weight", "in_proj_weight")
            out[packed_name] = torch.cat([state[n] for n in names])
        elif "_proj_weight" not in name:
            out[name] = value
    return out | {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77)}


def test_clip_files_load_as_they_are_or_round_as_officially(tiny: Any, tmp_path: Path) -> None:
    source, model = tiny.build("catseg", seed=1), tiny.build("catseg")
    torch.save(packed(source.clip.state_dict()), tmp_path / "clip.pt")
    weights = {"clip": tmp_path / "clip.pt"}
    exact = pretrained(tiny.build("catseg"), weights).clip.state_dict()
    assert all(torch.equal(v, exact[k]) for k, v in source.clip.state_dict().items())
    pretrained(model, weights, round_to_half=True)
    for name, value in source.clip.state_dict().items():
        got = model.clip.state_dict()[name]
        kept = "ln_" in name or "embedding" in name or name == "logit_scale"
        assert torch.equal(got, value if kept else value.half().float()), name
    assert not torch.equal(model.clip.visual.conv1.weight, source.clip.visual.conv1.weight)


def test_the_size_of_a_clip_is_read_off_its_file(tiny: Any) -> None:
    state = packed(tiny.build("catseg").clip.state_dict())
    assert clip_arguments(state).items() >= tiny.clip.items()
    with pytest.raises(CheckpointError, match="no CLIP with a vision transformer"):
        clip_arguments({"visual.layer1.weight": torch.zeros(1)})
    assert "input_resolution" not in remap_clip_keys(state)


def test_clip_of_another_size_is_refused_in_one_line(tiny: Any, tmp_path: Path) -> None:
    wide = tiny.build("catseg", clip=tiny.clip | {"vision_width": 128})
    torch.save(packed(wide.clip.state_dict()), tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match=r"another size: vision_width=128 for 64; build"):
        pretrained(tiny.build("catseg"), {"clip": tmp_path / "wide.pt"})
    model = catseg(clip_size(tmp_path / "wide.pt"), num_layers=1)
    pretrained(model, {"clip": tmp_path / "wide.pt"})
    assert torch.equal(model.clip.visual.conv1.weight, wide.clip.visual.conv1.weight)
    assert model.taps == (0, 1)


def test_a_file_that_is_absent_or_no_clip_is_named(tiny: Any, tmp_path: Path) -> None:
    file = tmp_path / "ViT-B-16.pt"
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt: no such file; the clip begins with"):
        pretrained(tiny.build("catseg"), {"clip": file})
    torch.save({"visual.layer1.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt: no CLIP with a vision transformer"):
        pretrained(tiny.build("catseg"), {"clip": file})


def test_the_teacher_of_a_dino_file_is_loaded(tiny: Any, tmp_path: Path) -> None:
    source, model = tiny.build("gsnet", seed=1), tiny.build("gsnet")
    teacher = {f"module.backbone.{k}": v for k, v in source.specialist.vit.state_dict().items()}
    teacher["module.head.mlp.0.weight"] = torch.zeros(3)
    student = {k: torch.zeros_like(v) for k, v in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "rsib.pth")
    pretrained(model, {"specialist": tmp_path / "rsib.pth"})
    for name, value in source.specialist.vit.state_dict().items():
        assert torch.equal(model.specialist.vit.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="this CATSeg has no specialist"):
        pretrained(tiny.build("catseg"), {"specialist": tmp_path / "rsib.pth"})
    with pytest.raises(CheckpointError, match="this CATSeg has no aggregator"):
        pretrained(tiny.build("catseg"), {"aggregator": tmp_path / "rsib.pth"})


def test_open_clips_convnext_loads_as_it_is(tiny: Any, tmp_path: Path) -> None:
    source, model = tiny.build("sed", seed=1), tiny.build("sed")
    torch.save(source.clip.state_dict(), tmp_path / "convnext.bin")
    pretrained(model, {"clip": tmp_path / "convnext.bin"}, checkpointing=True)
    state = model.clip.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in source.clip.state_dict().items())
    assert model.clip.visual.trunk.stages[0].grad_checkpointing


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.scale = nn.Parameter(torch.randn(()))
        self.register_buffer("table", torch.randn(2, 3).half())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.norm(x)) * self.scale


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_gives_its_weights_without_running(tmp_path: Path) -> None:
    block = Block()
    path = tmp_path / "scripted.pt"
    torch.jit.script(block).save(str(path))
    assert is_torchscript(path)
    got = read_torchscript(path)
    want = block.state_dict()
    assert {n: v.dtype for n, v in got.items()} == {n: v.dtype for n, v in want.items()}
    assert all(torch.equal(got[n], v) for n, v in want.items())
    torch.save(want, tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "plain.pt")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_an_archive_that_names_anything_else_is_refused(tmp_path: Path, capsys: Any) -> None:
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil()))
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
    with pytest.raises(UnsafeCheckpointError, match=r"would call 'builtins.print'"):
        read_torchscript(tmp_path / "evil.pt")
    assert capsys.readouterr().out == ""
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="damaged TorchScript archive"):
        read_torchscript(tmp_path / "cut.pt")
