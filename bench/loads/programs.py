# SPDX-License-Identifier: Apache-2.0
"""Programs that people know, as guests run them: what each is told, and its figures from what it
printed.

Each runs as several processes if asked to, which share out the memory among themselves, fill it,
and begin together. Their rates add up: a figure is the time from one operation to the next of all
of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pyvmm.debian import distro
from pyvmm.demo.swapload import MARK
from pyvmm.errors import HostError
from pyvmm.guest.program import compiled

MIB = 1 << 20
PAGE = 4096
MEMBENCH = "/bin/membench"
#: Packages of Debian, and their programs that run in the guest.
PACKAGES = {
    "redis-server": ["redis-server"],
    "redis-tools": ["redis-benchmark", "redis-cli"],
    "sqlite3": ["sqlite3"],
    "stress-ng": ["stress-ng"],
}

UPDATE = "GUPS, an update"
FILLING = "GUPS, a word filled"
TRIAD = "STREAM triad, 8 bytes"
KEY = "radix sort, a key"
COMPRESSED = "gzip beside GUPS, a MiB"
REQUEST = "redis GET, a request"
P50, P99, P999 = (f"redis GET, {part}" for part in ("p50", "p99", "p99.9"))
LOOKUP = "sqlite, a lookup"
SWEPT = "stress-ng vm zero-one, an op"


class Size(NamedTuple):
    """How much work: MiB in all, processes, seconds of GUPS at most, passes of those that sweep
    over all memory, and requests or lookups of each process.
    """

    mib: int
    processes: int = 1
    seconds: float = 5
    passes: int = 2
    requests: int = 10000

    @property
    def share(self) -> int:
        """Bytes of one process."""
        return self.mib * MIB // self.processes


class Program(NamedTuple):
    """`script` is run by the guest's shell, after what starts its swap, with `words` as arguments.

    `files` are given to it. `figures` are in seconds; it raises HostError if the program did not
    finish, or found something wrong.
    """

    script: str
    words: Callable[[Size], list[str]]
    figures: Callable[[str, Size], dict[str, float]]
    files: Mapping[str, bytes] = {}
    debian: bool = True

    def command(self, start: str, size: Size) -> list[str]:
        """Return what the guest runs, after what starts its swap."""
        return ["sh", "-c", start + self.script + LAST, "sh", *self.words(size)]


#: The last word of each guest: how many processes the kernel killed for want of memory.
LAST = "\ngrep oom_kill /proc/vmstat\n"


def ran_out(output: str) -> bool:
    """Return whether a guest had no memory left for its program."""
    return re.search("^oom_kill [1-9]", output, re.MULTILINE) is not None


def unfinished(output: str) -> HostError:
    """Return what there is of its output."""
    return HostError(f"the guest did not finish:\n{output[-1500:]}")


def together(times: Iterable[float]) -> float:
    """Return the time from one operation to the next, of processes at work at the same time, each
    with its own.
    """
    return 1 / sum(1 / time for time in times)


# GUPS, STREAM and a sort of our own


def membench_path() -> Path:
    """Return the program of membench.c, compiled; errors as for `compiled`."""
    return compiled("membench", [Path(__file__).with_name("membench.c")])


def membench(name: str, shown: Mapping[str, str]) -> Program:
    """Return one of the programs of membench.c; `shown` has its words for the figures."""

    def words(size: Size) -> list[str]:
        kib, seconds = str(size.mib << 10), f"{size.seconds:g}"
        passes, processes = str(size.passes), str(size.processes)
        return ["-m", kib, "-p", processes, "-s", seconds, "-r", passes, name]

    def figures(output: str, size: Size) -> dict[str, float]:
        for line in output.splitlines():
            if line.startswith(MARK + "{"):
                said = json.loads(line.removeprefix(MARK))
                break
        else:
            raise unfinished(output)
        if said["wrong"] or said["program"] != name:
            raise HostError(f"{name}: {said['wrong']} words of memory were not what they should be")
        if len(said["time"]) != size.processes:
            raise HostError(f"{name}: {len(said['time'])} processes, not {size.processes}")
        return {figure: together(said[key]) / 1e9 for key, figure in shown.items()}

    return Program(f'{MEMBENCH} "$@"\n', words, figures, debian=False)


# Something else that the guest has to do meanwhile

#: Compresses a file that stays in memory, again and again, until GUPS ends. Its own memory may be swapped.
BYSTANDER = f"""
uptime() {{ cut -d " " -f 1 /proc/uptime; }}
{MEMBENCH} "$@" > /tmp/said & worker=$!
count=0 start=$(uptime)
while kill -0 $worker 2> /dev/null; do gzip -c /bin/busybox > /dev/null && count=$((count + 1)); done
echo "{MARK}bystander $count $(stat -c %s /bin/busybox) $start $(uptime)"
wait $worker
cat /tmp/said
"""


def bystander(name: str) -> Program:
    """Return a program that measures what one of membench.c leaves to gzip.

    GUPS's own figures are not these: it had the CPU with another.
    """
    worker = membench(name, {"time": UPDATE})

    def figures(output: str, size: Size) -> dict[str, float]:
        worker.figures(output, size)
        said = re.search(rf"^{MARK}bystander (\d+) (\d+) ([\d.]+) ([\d.]+)", output, re.MULTILINE)
        if said is None:
            raise unfinished(output)
        count, length, start, end = (float(part) for part in said.groups())
        if not count:
            raise HostError("the bystander did not compress anything")
        return {COMPRESSED: (end - start) / (count * length / MIB)}

    return Program(BYSTANDER, worker.words, figures, debian=False)


# Redis

#: Bytes of a value, and what Redis takes for one with its key.
VALUE, ENTRY = 4000, 4300
#: Of all keys, so many are compared in the end.
COMPARED = 1000

REDIS_FILL = """
local keys, size, noise = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 1, 65536 do noise[i] = string.char(math.random(0, 255)) end
noise = table.concat(noise)
-- A quarter is noise and the rest alike: it compresses about as well as programs' memory does.
local part = math.floor(size / 4)
local rest = string.rep("x", size - part - 24)
for i = 0, keys - 1 do
    local name, from = string.format("%012d", i), i * 61 % (65536 - part) + 1
    redis.call("SET", "key:" .. name, name .. string.sub(noise, from, from + part - 1) .. rest .. name)
end
return keys
"""
REDIS_COMPARE = """
local keys, size, step, wrong = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), 0
for i = 0, keys - 1, step do
    local name, value = string.format("%012d", i), redis.call("GET", string.format("key:%012d", i))
    if not value or #value ~= size or string.sub(value, 1, 12) ~= name or string.sub(value, -12) ~= name then
        wrong = wrong + 1
    end
end
return wrong
"""
REDIS = f"""
processes=$1 keys=$2 size=$3 requests=$4 step=$5
{distro.SHELL}
ask() {{ where=$1; shift; program redis-cli -s /tmp/redis.$where "$@" 2> /dev/null; }}
serve() {{
    program redis-server --port 0 --unixsocket /tmp/redis.$1 --daemonize yes --save "" --appendonly no > /dev/null
    until [ "$(ask $1 PING)" = PONG ]; do sleep 0.1; done
}}
fill() {{ ask $1 EVAL "$(cat /opt/fill.lua)" 0 $keys $size > /tmp/filled.$1; }}
load() {{
    program redis-benchmark -s /tmp/redis.$1 -c 1 -n $requests -r $keys --precision 3 \\
        GET key:__rand_int__ > /tmp/said.$1
}}
tell() {{
    echo "{MARK}redis $1"
    tr '\\r' '\\n' < /tmp/said.$1 | sed -n '/by percentile/,/^Cumulative/p; /throughput summary/p'
    ask $1 INFO stats | grep keyspace_
    echo "wrong:$(ask $1 EVAL "$(cat /opt/compare.lua)" 0 $keys $size $step)"
}}
each() {{ for process in $(seq $processes); do $1 $process & done; wait; }}
start_programs && each serve && each fill && each load
for process in $(seq $processes); do tell $process; done
"""


def redis_words(size: Size) -> list[str]:
    keys = size.share // ENTRY
    numbers = (size.processes, keys, VALUE, size.requests, max(1, keys // COMPARED))
    return [str(number) for number in numbers]


def redis_figures(output: str, size: Size) -> dict[str, float]:
    """Return the figures of redis-benchmark's report, and the server's count of requests that found
    their key. Percentiles are those of the slowest process.
    """
    parts = output.split(f"{MARK}redis ")[1:]
    found = [redis_process(part, size.requests) for part in parts]
    if len(found) != size.processes:
        raise unfinished(output)
    slowest = {figure: max(one[figure] for one in found) for figure in (P50, P99, P999)}
    return {REQUEST: together(one[REQUEST] for one in found), **slowest}


def redis_process(said: str, requests: int) -> dict[str, float]:
    rate = re.search(r"throughput summary: ([\d.]+) requests per second", said)
    counts = dict(re.findall(r"^(keyspace_hits|keyspace_misses|wrong):(\d+)", said, re.MULTILINE))
    if rate is None or len(counts) != 3:
        raise unfinished(said)
    if counts["wrong"] != "0":
        raise HostError(f"redis: {counts['wrong']} values were not what they should be")
    if counts["keyspace_misses"] != "0" or int(counts["keyspace_hits"]) < requests:
        raise HostError(f"redis: of {requests} requests only {counts['keyspace_hits']} found a key")
    steps = re.findall(r"^([\d.]+)% <= ([\d.]+) milliseconds", said, re.MULTILINE)
    slow = [(float(part), float(time) / 1e3) for part, time in steps]
    return {
        REQUEST: 1 / float(rate[1]),
        **{figure: percentile(slow, part) for figure, part in ((P50, 50), (P99, 99), (P999, 99.9))},
    }


def percentile(steps: list[tuple[float, float]], wanted: float) -> float:
    """Return the first of redis-benchmark's steps that has so many of a hundred requests."""
    return next(time for part, time in steps if part >= wanted)


# SQLite

#: Bytes of a row as SQLite keeps it: one to a page.
ROW = PAGE
MODULUS = 1000003
SQLITE_FILL = f"""
PRAGMA page_size = {PAGE};
CREATE TABLE filled (id INTEGER PRIMARY KEY, mark INTEGER, body BLOB);
INSERT INTO filled
WITH RECURSIVE row (id) AS (VALUES (0) UNION ALL SELECT id + 1 FROM row LIMIT $rows)
SELECT id, id * 7919 % {MODULUS}, CAST(hex(randomblob(448)) || printf('%.2900c%08d', 'x', id) AS BLOB) FROM row;
.output /tmp/filled.$1
SELECT count(*) FROM filled;
.output
"""
SQLITE_LOOK = f"""
.timer on
WITH RECURSIVE draw (n, x) AS (
    VALUES (1, 12345 + $1) UNION ALL SELECT n + 1, (x * 1103515245 + 12345) % 2147483648 FROM draw LIMIT $lookups
)
SELECT 'right', count(*) FROM draw CROSS JOIN filled ON id = (x >> 8) % $rows
WHERE mark = id * 7919 % {MODULUS} AND substr(body, -8) = CAST(printf('%08d', id) AS BLOB);
"""
SQLITE = f"""
processes=$1 rows=$2 lookups=$3
{distro.SHELL}
work() {{
    {{
        eval "cat << END
$(cat /opt/fill.sql)
END"
        until [ -e /tmp/go ]; do sleep 0.05; done
        eval "cat << END
$(cat /opt/look.sql)
END"
    }} | program sqlite3 -batch :memory: > /tmp/said.$1 2>&1
    touch /tmp/ended.$1
}}
start_programs || exit 1
for process in $(seq $processes); do work $process & done
for process in $(seq $processes); do
    until [ -s /tmp/filled.$process ] || [ -e /tmp/ended.$process ]; do sleep 0.1; done
done
touch /tmp/go
wait
for process in $(seq $processes); do echo "{MARK}sqlite $process"; cat /tmp/said.$process; done
"""


def sqlite_words(size: Size) -> list[str]:
    return [str(number) for number in (size.processes, size.share // ROW, size.requests)]


def sqlite_figures(output: str, size: Size) -> dict[str, float]:
    """Return the figures of the shell's timer, and the count of rows that were right."""
    parts = output.split(f"{MARK}sqlite ")[1:]
    if len(parts) != size.processes:
        raise unfinished(output)
    return {LOOKUP: together(sqlite_process(part, size.requests) for part in parts)}


def sqlite_process(said: str, lookups: int) -> float:
    right = re.search(r"^right\|(\d+)", said, re.MULTILINE)
    time = re.search(r"^Run Time: real ([\d.]+)", said, re.MULTILINE)
    if right is None or time is None:
        raise unfinished(said)
    if int(right[1]) != lookups:
        raise HostError(f"sqlite: {right[1]} of {lookups} rows were right")
    return float(time[1]) / lookups


# stress-ng

#: Of `--vm-method zero-one`, which has two operations for each 8 bytes and counts them by 4096.
OP = 16384
STRESS = f"""
processes=$1 mib=$2 ops=$3
{distro.SHELL}
start_programs || exit 1
program stress-ng --vm $processes --vm-bytes ${{mib}}M --vm-keep --vm-method zero-one --vm-ops $ops --verify \\
    --metrics --yaml /tmp/metrics --temp-path /tmp > /tmp/said 2>&1
status=$?
[ $status = 0 ] || cat /tmp/said
echo "{MARK}stress-ng status: $status"
sed -n '/^metrics/,$p' /tmp/metrics
"""


def stress_words(size: Size) -> list[str]:
    return [str(n) for n in (size.processes, size.mib, size.mib * MIB // OP * size.passes)]


def stress_figures(output: str, size: Size) -> dict[str, float]:
    """Return the figures of stress-ng's own metrics."""
    status = re.search(rf"^{MARK}stress-ng status: (\d+)", output, re.MULTILINE)
    ops = re.search(r"^\s+bogo-ops: (\d+)", output, re.MULTILINE)
    time = re.search(r"^\s+wall-clock-time: ([\d.]+)", output, re.MULTILINE)
    if status is None or ops is None or time is None:
        raise unfinished(output)
    if status[1] != "0":
        raise HostError(f"stress-ng ended with {status[1]}:\n{output[-1500:]}")
    if int(ops[1]) * OP < size.mib * MIB // 2:
        raise HostError(f"stress-ng made only {ops[1]} operations")
    return {SWEPT: float(time[1]) / int(ops[1])}


PROGRAMS = {
    "gups": membench("gups", {"time": UPDATE, "fill": FILLING}),
    "bystander": bystander("gups"),
    "stream": membench("stream", {"time": TRIAD}),
    "sort": membench("sort", {"time": KEY}),
    "redis": Program(
        REDIS,
        redis_words,
        redis_figures,
        {"/opt/fill.lua": REDIS_FILL.encode(), "/opt/compare.lua": REDIS_COMPARE.encode()},
    ),
    "sqlite": Program(
        SQLITE,
        sqlite_words,
        sqlite_figures,
        {"/opt/fill.sql": SQLITE_FILL.encode(), "/opt/look.sql": SQLITE_LOOK.encode()},
    ),
    "stress-ng": Program(STRESS, stress_words, stress_figures),
}
