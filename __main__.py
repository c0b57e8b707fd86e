"""``python -m smalti`` is the command ``smalti``."""

import sys

from .launch.__main__ import main

sys.exit(main())
