# SPDX-License-Identifier: Apache-2.0
"""What is said to people: mail, once, in their language. The room's door."""
