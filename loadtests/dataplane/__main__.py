"""`python -m loadtests.dataplane`."""

import sys

from loadtests.dataplane.bench import main

if __name__ == "__main__":
    sys.exit(main())
