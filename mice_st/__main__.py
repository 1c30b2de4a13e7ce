"""``python -m mice_st`` and ``torchrun -m mice_st``: the command ``mice-st``."""

import sys

from mice_st.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
