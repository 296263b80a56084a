#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# extract.sh SERIES TARGET: puts the files that a series of patches creates into a folder, as they are after the last
# patch. What the patches change of the kernel's own files needs the kernel's tree and is left out.
set -eu

series=$1
target=$2
patches=
for name in $(sed 's/#.*//' "$series/series"); do
	patches="$patches $series/$name"
done
if [ -z "$patches" ]; then
	echo "extract.sh: $series/series names no patch" >&2
	exit 1
fi

rm -rf "$target"
mkdir -p "$target"
# The first pass learns which files are new, the second prints all that any patch says about them.
# shellcheck disable=SC2086
awk '
	FNR == 1 { keep = 0; path = "" }
	/^diff --git a\// { path = $4; sub(/^b\//, "", path); keep = pass == 2 && (path in made) }
	/^new file mode / && path != "" { made[path] = 1 }
	keep
' pass=1 $patches pass=2 $patches >"$target/all.patch"
if [ ! -s "$target/all.patch" ]; then
	echo "extract.sh: no patch of $series creates a file" >&2
	exit 1
fi
patch -p1 -s --fuzz=0 -d "$target" -i all.patch
rm "$target/all.patch"
