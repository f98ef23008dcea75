"""Commands about judges: whether one is reachable, and how good it is."""
