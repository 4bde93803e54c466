"""What must work with the swath-refseg wheel and its dependencies alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

assert importlib.util.find_spec("swath.pretrain") is None, "another paradigm came along"
swath_command = Path(sys.executable).with_name("swath")
for arguments in (["--help"], ["configs"], ["models", "remotesam-swin-b"], ["refseg", "--help"]):
    subprocess.run([str(swath_command), *arguments], check=True, stdout=subprocess.DEVNULL)
print("swath.refseg works from its wheel")
