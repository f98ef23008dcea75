"""Run in processes of its own: everybody claims folders at once."""

import importlib.util
from pathlib import Path


def claim(barrier, file, folder, count, queue):
    """``file`` is loaded by itself: it needs the standard library alone, its package imports Lightning."""
    spec = importlib.util.spec_from_file_location("folder", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    barrier.wait(60)
    queue.put([module.run_folder(Path(folder) / "run").name for _ in range(count)])
