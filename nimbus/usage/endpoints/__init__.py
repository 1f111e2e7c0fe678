# SPDX-License-Identifier: Apache-2.0
"""HTTP of usage: what was called, what is left, what it costs, the log."""

from nimbus.usage.endpoints import costs, exports, figures, ingest, logs, readings

routers = (
    ingest.router,
    readings.router,
    figures.router,
    costs.router,
    logs.router,
    exports.router,
)
