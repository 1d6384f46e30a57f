"""`python -m proxy.demo --state DIR`: the same as `egress demo`, for those who start processes."""

import sys

from proxy.cli import main

sys.exit(main(["demo", *sys.argv[1:]]))
