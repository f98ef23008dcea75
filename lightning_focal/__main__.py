"""``python -m lightning_focal`` is the same as ``lightning_focal``."""

from lightning_focal.entry import main

main()
