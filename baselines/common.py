"""What `python baselines/grpo.py` finds in the place of the repository's common.py: it says how a rival is started."""

import sys

raise SystemExit(f"start a rival from the repository's root: python -m baselines.{sys.argv[0].rpartition('/')[2][:-3]}")
