# SPDX-License-Identifier: Apache-2.0
# The extension module made by csrc/build.py: `lib` holds the functions and constants of the csrc headers.
from typing import Any

ffi: Any
lib: Any
