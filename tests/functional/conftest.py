from __future__ import annotations

from hypothesis import settings

# A time limit an example measures the machine, not the code.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
