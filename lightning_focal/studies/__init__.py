"""Studies of runs: what recorded rollouts would have been worth under another strategy."""
