# SPDX-License-Identifier: Apache-2.0
"""Use cases of billing, by noun: sellers, proposals, runs, invoices, papers."""
