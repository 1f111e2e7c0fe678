# SPDX-License-Identifier: Apache-2.0
"""HTTP of usage: what was called, what is left, the log."""

from nimbus.usage.endpoints import readings

routers = (readings.router,)
