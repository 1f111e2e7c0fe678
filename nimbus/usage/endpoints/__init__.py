# SPDX-License-Identifier: Apache-2.0
"""HTTP of usage: what was called, what is left, what it costs, the log."""

from nimbus.usage.endpoints import (
    costs,
    entitlements,
    exports,
    figures,
    ingest,
    logs,
    quotas,
    readings,
)

routers = (
    ingest.router,
    readings.router,
    figures.router,
    costs.router,
    logs.router,
    exports.router,
    quotas.router,
    entitlements.router,
)
