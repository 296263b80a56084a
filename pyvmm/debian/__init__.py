# SPDX-License-Identifier: Apache-2.0
"""Debian's packages: fetched with apt, unpacked into the cache without root, and the programs and
modules in them.
"""
