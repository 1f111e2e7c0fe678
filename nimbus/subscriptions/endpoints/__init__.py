# SPDX-License-Identifier: Apache-2.0
"""HTTP of subscriptions: for who has them, whose product they are of, and the operator."""

from nimbus.subscriptions.endpoints import admin, consumers, own

routers = (own.router, consumers.router, admin.router)
