"""`python -m nnconv` is the command `nnconv`."""

import sys

from nnconv.cli.start import run

sys.exit(run())
