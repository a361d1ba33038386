"""``python -m diptych.cli``, for launchers that start modules: ``torchrun --nproc-per-node 2 -m diptych.cli train ...``."""

from __future__ import annotations

import sys

from diptych.cli import main

sys.exit(main())
