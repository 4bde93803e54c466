"""What must work with the swath-pretrain wheel and its dependencies alone."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

assert importlib.util.find_spec("swath.moe") is None, "another paradigm came along"
swath = Path(sys.executable).with_name("swath")
with tempfile.TemporaryDirectory() as folder:
    for arguments in (
        ["demo", "--help"],
        ["configs", "s4p_vitb_isaid_rs4p1m"],
        ["datasets", "rs4p1m"],
        ["data", "prepare", "rs4p", "--help"],
        ["train", "s4p_scenes_tiny", "--smoke", "--run-dir", f"{folder}/run"],
    ):
        subprocess.run([str(swath), *arguments], check=True, stdout=subprocess.DEVNULL)
    assert Path(folder, "run/best.safetensors").is_file()
print("swath.pretrain works from its wheel")
