"""`python -m domainvl`."""

import os
import sys

from domainvl.cli import main

__all__ = ["main"]

# Read when torch is loaded, so it stands here. Threads that wait for each other spin for milliseconds, which stalls
# training as soon as anything else wants a core; spinning shortly costs a little where nothing does (docs/speed.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if __name__ == "__main__":
    sys.exit(main())
