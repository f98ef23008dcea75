"""Studies around runs: grids of them, and what recorded rollouts would have been worth under another strategy."""
