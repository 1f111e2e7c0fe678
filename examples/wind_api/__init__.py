# SPDX-License-Identifier: Apache-2.0
"""A small API that a provider would sell through Nimbus; see README.md."""

from examples.wind_api.server import serve

__all__ = ["serve"]
