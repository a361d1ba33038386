"""``python -m diptych`` is ``diptych``."""

from __future__ import annotations

import sys

from diptych.cli import main

if __name__ == "__main__":
    sys.exit(main())
