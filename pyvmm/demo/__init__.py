# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a program short of memory, in guests that swap in one way or another, and a
picture of it.
"""
