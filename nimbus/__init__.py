# SPDX-License-Identifier: Apache-2.0
"""Nimbus: sell an API, enforce its limits, and bill exactly what was served."""
