# SPDX-License-Identifier: Apache-2.0
"""The law: values in, values out. No input, no output, no clock, no framework."""
