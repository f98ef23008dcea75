"""``python -m lightning_focal`` is the same as ``lightning_focal``."""

from lightning_focal.cli import main

main()
