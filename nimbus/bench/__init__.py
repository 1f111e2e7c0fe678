# SPDX-License-Identifier: Apache-2.0
"""Benches: how fast the gateway is beside others, on one machine, in one run."""
