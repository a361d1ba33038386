import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("invariants")
sys.path.insert(0, str(Path(__file__).parent))  # `import invariants`, also in the processes that tests start
