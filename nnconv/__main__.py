"""`python -m nnconv` is the command `nnconv`."""

import sys

from nnconv.cli.main import main

sys.exit(main())
