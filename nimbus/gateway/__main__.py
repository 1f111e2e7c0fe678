# SPDX-License-Identifier: Apache-2.0
"""`python -m nimbus.gateway`: one gateway process, by the settings of the environment.

`nimbus gateway` becomes this, because the command line brings libraries with it whose memory
would be in every gateway process.
"""

import sys

from nimbus import gateway
from nimbus.base import log
from nimbus.base.config import ConfigError, load
from nimbus.base.secrets import SecretMissingError

if __name__ == "__main__":
    try:
        settings = load()
        log.configure(settings.log_level, "gateway")
        gateway.run(settings)
    except (ConfigError, SecretMissingError) as error:
        sys.exit(f"nimbus: {error}")
    except PermissionError as error:
        sys.exit(f"nimbus: {error.filename}: {error.strerror}")
