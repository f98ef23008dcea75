"""`runs/folder.py` in a process of its own, without the package around it, whose import takes seconds."""

import subprocess
import sys

from lightning_focal.runs import folder

_LOAD = """
import importlib.util, sys, time, types
from pathlib import Path
name = "lightning_focal.runs.processes"  # all that it takes of the package
sys.modules[name] = types.ModuleType(name)
sys.modules[name].end_with_parent = None
spec = importlib.util.spec_from_file_location("folder", sys.argv[1])
folder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(folder)
top = Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
"""


def alone(code, top):
    """Start a process that runs ``code`` on a path, ``top``, with ``folder`` at hand, once it is told to by a line."""
    command = [sys.executable, "-c", _LOAD + code, folder.__file__, str(top)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process):
    process.stdin.write("\n")
    process.stdin.flush()
