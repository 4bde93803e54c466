"""What must work with the swath-ovseg wheel and its dependencies alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

assert importlib.util.find_spec("swath.pretrain") is None, "another paradigm came along"
swath_command = Path(sys.executable).with_name("swath")
prepare = ["data", "prepare", "landdiscover", "--help"]
for arguments in (["--help"], ["configs"], ["models", "gsnet-vitb"], prepare):
    subprocess.run([str(swath_command), *arguments], check=True, stdout=subprocess.DEVNULL)
print("swath.ovseg works from its wheel")
