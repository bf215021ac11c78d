"""`python -m opvseg_jax` is the `opvseg` command."""

import sys

from opvseg_jax.cli.main import main

sys.exit(main())
