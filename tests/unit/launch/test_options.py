# SPDX-License-Identifier: Apache-2.0
"""The parser for plain cases, compared with argparse."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyvmm.cli import run
from pyvmm.cli.parser import parse
from pyvmm.launch.options import OPTIONS, attribute, quick_parse
from tests.support.run_options import run_parser


@pytest.mark.parametrize("names", [each[0] for each in OPTIONS], ids=lambda names: names[-1])
def test_an_option_given_twice(names: tuple[str, ...]) -> None:
    """The last counts, or they add up: as docs/command-line.md says, with argparse and without."""
    words = next(words for each, words in OPTIONS if each == names)
    if words.get("action") == "store_true":
        return
    values = [*words.get("choices", ("1", "2"))][:2]
    line = [word for value in values for word in (names[-1], value)]
    parsed = [words.get("type", str)(value) for value in values]
    expected = parsed if words.get("action") == "append" else parsed[-1]
    quick = quick_parse(line)
    assert quick is not None
    assert getattr(quick, attribute(names)) == expected
    assert getattr(parse(run, "run", line), attribute(names)) == expected


def test_the_command_is_all_that_follows() -> None:
    words = ["--memory=1G", "--", "sh", "--memory", "--", "-k"]
    slow, quick = parse(run, "run", ["-vm", "1G", *words[1:]]), quick_parse(words)
    assert quick is not None
    assert slow.command == quick.command == words[2:]
    assert (slow.memory, slow.verbose) == ("1G", True)


OPTION_NAMES = sorted(
    {name for action in run_parser()._actions for name in action.option_strings} - {"-h", "--help"}
)


values = st.sampled_from(
    [
        "1",
        "2.5",
        "x",
        "",
        "-",
        "-1",
        "a b",
        "serial",
        "virtio",
        "real",
        "2M",
        "x,ro",
        "=",
        "--",
        "A=1",
    ]
)


pieces = st.one_of(
    st.sampled_from(OPTION_NAMES).map(lambda name: [name]),
    st.tuples(st.sampled_from(OPTION_NAMES), values).map(list),
    st.tuples(st.sampled_from(OPTION_NAMES), values).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
    values.map(lambda value: [value]),
)


@settings(max_examples=600)
@given(st.lists(pieces, max_size=5))
def test_quick_parsing_agrees_with_argparse(chosen: list[list[str]]) -> None:
    words = [word for piece in chosen for word in piece]
    # The argparse of Python 3.11 makes an empty list of the value in --option=--.
    assume(not any(word.endswith("=--") for word in words))
    quick = quick_parse(words)
    if quick is not None:
        slow = run_parser().parse_args(words)
        assert {name: getattr(quick, name) for name in vars(slow)} == vars(slow)
