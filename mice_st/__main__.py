"""``python -m mice_st`` and ``torchrun -m mice_st``: the command ``mice-st``."""

import sys

if __name__ == "__main__":
    from mice_st.commands.main import main

    sys.exit(main())
