"""The curated material of the data set ``configs/data/everyday``; ``benchmarks/build_everyday.py`` writes it out."""
