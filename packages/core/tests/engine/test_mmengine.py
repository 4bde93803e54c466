import importlib.util
import subprocess
import sys


def test_training_imports_no_transformers_and_leaves_them_importable() -> None:
    code = (
        "import sys, importlib.util; import swath.core.engine.runner\n"
        "import mmengine; print('transformers' in sys.modules,"
        " importlib.util.find_spec('transformers') is not None)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    installed = importlib.util.find_spec("transformers") is not None
    assert run.stdout.split() == ["False", str(installed)]
