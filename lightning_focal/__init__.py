"""lightning_focal: reinforcement learning on rubrics of many criteria, with PyTorch Lightning."""

__version__ = "0.1.0"
