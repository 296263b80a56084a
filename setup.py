# SPDX-License-Identifier: Apache-2.0
"""Builds the two cffi extension modules, and puts guest-linux-patch and include into the package.

pyproject.toml has the rest.
"""

import sysconfig

from setuptools import find_packages, setup

# The modules keep to Python's stable interface, so that one wheel is for 3.11 and all after it. A Python without the
# GIL has no such interface.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

setup(
    packages=[
        *find_packages(include=["pyvmm", "pyvmm.*"]),
        *("pyvmm.guest_linux_patch", "pyvmm.include"),
    ],
    package_dir={"pyvmm.guest_linux_patch": "guest-linux-patch", "pyvmm.include": "include"},
    cffi_modules=["csrc/build.py:builder_of_kvm", "csrc/build.py:builder_of_core"],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
