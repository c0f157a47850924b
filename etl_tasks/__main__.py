"""``python -m etl_tasks``."""

from __future__ import annotations

import sys

from etl_tasks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
