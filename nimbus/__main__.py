# SPDX-License-Identifier: Apache-2.0
"""`python -m nimbus`: the command."""

from nimbus.cli import main

if __name__ == "__main__":
    main()
