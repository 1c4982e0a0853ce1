"""`python -m domainvl`."""

import sys

from domainvl.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
