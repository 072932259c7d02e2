"""`python -m star_exp` is the command `star-exp`."""

import sys

from star_exp.cli import main

sys.exit(main())
