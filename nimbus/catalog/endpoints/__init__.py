# SPDX-License-Identifier: Apache-2.0
"""HTTP of the catalogue: for providers, and for everyone."""

from nimbus.catalog.endpoints import hosts, market, provider

routers = (provider.router, hosts.router, market.router)
