"""`python -m D24FADLib` is the `d24fad` command."""

import sys

from D24FADLib.cli import main

sys.exit(main())
