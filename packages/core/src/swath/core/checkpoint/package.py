"""A trained model as a folder that can be passed on: weights, config, card, figures, checksums.

==================  ==============================================================================
file                what it is
==================  ==============================================================================
model.safetensors   weights with model, task and preprocessing; `swath.core.load_model` opens it
config.json         the run's resolved config
metrics.json        the figures of its validation, if it was validated
README.md           the model card: classes, bands, ground sampling distance, data, figures, licence
SHA256SUMS          the hash of every other file, as ``sha256sum --check`` reads it
==================  ==============================================================================
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swath.core.checkpoint.fetch import offline
from swath.core.checkpoint.store import describe, load_task
from swath.core.checkpoint.store import verify as verify_checkpoint
from swath.core.errors import CheckpointError, MissingDependencyError, SwathError
from swath.core.files import sha256
from swath.core.task import predict_command

SUMS = "SHA256SUMS"
_HUB_LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0"}
_USE = "swath predict model.safetensors scene.tif"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def pack(run_dir: str | Path, out: str | Path | None = None, *, last: bool = False) -> Path:
    """Gather what belongs to a trained model; the folder appears whole or not at all.

    Args:
        run_dir: Folder of a training run.
        out: Folder to make; ``RUN/package`` by default.
        last: Take the last weights instead of the best.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the run has no whole checkpoint, or ``out`` exists already.
    """
    run = Path(run_dir)
    weights = run / ("last.safetensors" if last else "best.safetensors")
    if not last and not weights.exists():  # a run without validation has no best
        weights = run / "last.safetensors"
    if not weights.exists():
        raise CheckpointError(f"{run}: holds no trained weights; give the folder of a finished run")
    final = Path(out) if out else run / "package"
    if final.exists():
        raise CheckpointError(f"{final}: exists already; remove it or choose another --out")
    description = describe(weights)
    verify_checkpoint(weights)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        shutil.copyfile(weights, temporary / "model.safetensors")
        shutil.copyfile(run / "config.json", temporary / "config.json")
        figures = _figures(run / "validation.json", description["training"].get("step"))
        if figures:
            shutil.copyfile(run / "validation.json", temporary / "metrics.json")
        card = render_card(description, figures, _command(weights))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(temporary.iterdir()))
        (temporary / SUMS).write_text(sums, encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes its folders private
        temporary.replace(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def verify(path: str | Path) -> list[str]:
    """Check a package, or one checkpoint of ours, against the hashes that it carries.

    Returns:
        The names of the files that were checked.

    Raises:
        CheckpointError: If a file is missing, was added, or differs in a single byte.
    """
    path = Path(path)
    if not path.is_dir():
        verify_checkpoint(path)
        return [path.name]
    expected = dict(_read_sums(path / SUMS))
    present = {file.name for file in path.iterdir()} - {SUMS}
    for name in sorted(set(expected) ^ present):
        what = "is missing" if name in expected else f"isn't listed in {SUMS}"
        raise CheckpointError(f"{path / name}: {what}; fetch the package again")
    for name, digest in expected.items():
        if sha256(path / name) != digest:
            raise CheckpointError(
                f"{path / name}: its content doesn't match {SUMS}, it was damaged or altered; "
                "fetch the package again"
            )
    verify_checkpoint(path / "model.safetensors")
    return sorted(expected)


def upload(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Send a verified package to the Hugging Face Hub.

    Args:
        folder: What `pack` made.
        repo: ``hf://OWNER/REPO``; made if it isn't there.
        private: Make it visible to its owner only.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: If the package isn't whole, or the Hub refuses it.
        MissingDependencyError: If the Hub's package isn't installed.
    """
    verify(folder)
    name = repo.removeprefix("hf://")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{repo}: expected hf://OWNER/REPO")
    if offline():
        raise CheckpointError(f"{repo}: SWATH_OFFLINE forbids uploading; unset it")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingDependencyError(
            "uploading needs the package huggingface-hub: pip install 'swath-core[hub]'"
        ) from error
    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=str(folder)))
    except Exception as error:  # the Hub's package has many kinds, and its HTTP library's beside
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{repo}: the Hub refuses it ({reason})") from error


def render_card(
    description: Mapping[str, Any], figures: Mapping[str, Any], command: str = _USE
) -> str:
    """The model card, Markdown with the Hub's front matter.

    Args:
        description: What `checkpoint.store.describe` gives.
        figures: Of the validation; may be empty.
        command: How the model is asked.
    """
    card, training = description["card"], description["training"]
    task = description["task"]
    title = card.get("title", "A model trained with Swath")
    licence = card.get("licence", "not stated")
    facts = {
        "model": description["model"]["_target_"],
        "classes": ", ".join(task.get("classes", ())),
        "bands": _bands(task.get("radiometry")),
        "ground sampling distance": f"{task['gsd_m']} m" if task.get("gsd_m") else "not stated",
        "data": card.get("data", "not stated"),
        "licence": licence,
        "training": f"{training.get('step', '?')} steps, seed {training.get('seed', '?')}, "
        f"config {training.get('config', '?')}",
    }
    rest = {k: v for k, v in card.items() if k not in ("title", "data", "licence")}
    lines = ["---", "library_name: swath", f"license: {_front_matter(licence)}", "---", ""]
    lines += [f"# {title}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in (facts | rest).items()]
    numbers = {k: v for k, v in figures.items() if isinstance(v, int | float) and k != "step"}
    if numbers:
        lines += ["", "## Validation", "", "| figure | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.4f} |" for name, value in numbers.items()]
    lines += ["", "## Use", "", "```", command, "```"]
    return "\n".join(lines) + "\n"


def _command(weights: Path) -> str:
    """How a packed model is asked."""
    try:
        return predict_command(load_task(weights), "model.safetensors", "scene.tif")
    except SwathError:  # a task of the user's own can't be built by the file alone
        return _USE


def _front_matter(licence: str) -> str:
    """The Hub knows licences by short names; anything else is ``other``."""
    return licence.lower() if licence.lower() in _HUB_LICENCES else "other"


def _bands(radiometry: Any) -> str:
    """What the model expects as input; 8-bit RGB if the task says nothing else."""
    if not isinstance(radiometry, Mapping):
        return "red, green, blue, uint8"
    return f"{', '.join(radiometry['bands'])}, {radiometry['dtype']}"


def _figures(path: Path, step: int | None) -> dict[str, Any]:
    """The validation's figures, if they are of these very weights."""
    if not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures if figures.get("step") == step else {}


def _read_sums(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} holds no {SUMS}: no package; give a folder that swath pack made"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: unreadable, so this is no package ({error})") from error
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None or Path(found[2]).name != found[2]:
            raise CheckpointError(f"{path}: a line isn't a hash and a name; fetch it again")
        yield found[2], found[1]
