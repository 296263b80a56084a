# SPDX-License-Identifier: Apache-2.0
"""The Linux guests: a small kernel and an initramfs, built once and kept in a cache.

Importing this package imports nothing else. What a launch needs is in `cache` (`find`) and
`overlay`; the rest is for making guests.
"""
