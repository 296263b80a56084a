# SPDX-License-Identifier: Apache-2.0
"""A run of a guest: its options, its plan, the launch here or by the fork server, and how it is
told.
"""
