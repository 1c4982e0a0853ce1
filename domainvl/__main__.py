"""`python -m domainvl`."""

import os
import sys

from domainvl.cli import main

__all__ = ["main"]

# Read when torch is loaded, so it stands here. Threads that wait for each other spin for milliseconds, which stalls
# training as soon as anything else wants a core: beside other work `fit recipes/cxr.yaml` took 45 to 54 s with this and
# did not end in 150 s without (docs/speed.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    sys.exit(main())
