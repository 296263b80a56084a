# SPDX-License-Identifier: Apache-2.0
"""The command line: one module a subcommand, a table of exit statuses, and what they print."""
