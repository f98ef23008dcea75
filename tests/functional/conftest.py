from __future__ import annotations

import os

from hypothesis import settings

# A time limit an example measures the machine, not the code. On CI the same commit meets the same examples.
settings.register_profile("no_deadline", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("no_deadline")
