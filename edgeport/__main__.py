"""`python -m edgeport` is the command `edgeport`."""

import sys

from edgeport.cli import main

if __name__ == "__main__":
    sys.exit(main())
