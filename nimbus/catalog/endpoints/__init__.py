# SPDX-License-Identifier: Apache-2.0
"""HTTP of the catalogue: for providers, and for everyone."""

from nimbus.catalog.endpoints import add_ons, hosts, market, provider

routers = (provider.router, add_ons.router, hosts.router, market.router)
