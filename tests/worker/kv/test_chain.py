from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.worker.kv.chain import DIGEST_BYTES, ROOT, block_digest

TOKENS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6).map(tuple)
PARTS = st.tuples(st.binary(min_size=16, max_size=16), TOKENS, st.text(max_size=3), st.text(max_size=3))


@given(PARTS, PARTS)
def test_digests_are_equal_if_and_only_if_all_their_parts_are(one, other):
    assert (block_digest(*one) == block_digest(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((ROOT, (1, 2), "ab", ""), (ROOT, (1, 2), "a", "b"), id="salt runs into revision"),
        pytest.param((ROOT, (1, 2), "", "m"), (ROOT, (1, 2), "m", ""), id="salt is not revision"),
        pytest.param((ROOT, (1, 2), "", ""), (ROOT, (2, 1), "", ""), id="order of tokens"),
        pytest.param((ROOT, (1,), "", ""), (ROOT, (1, 0), "", ""), id="a zero more"),
        pytest.param((ROOT, (-1,), "", ""), (ROOT, (2**32 - 1,), "", ""), id="a negative id is not its low half"),
        pytest.param((ROOT, (1,), "", ""), (b"\1" * 16, (1,), "", ""), id="parent"),
        pytest.param((ROOT, (97,), "", ""), (ROOT, (), "a" + "\0" * 7, ""), id="a token is not a letter"),
    ],
)
def test_what_could_be_taken_for_another_is_not(one, other):
    assert block_digest(*one) != block_digest(*other)


def test_a_digest_has_128_bits_and_is_the_same_in_every_process():
    assert len(block_digest(ROOT, (1, 2, 3), "tenant", "rev")) == DIGEST_BYTES
    assert block_digest(ROOT, (), "", "").hex() == "673cbd9a83cb676eba3e0bcd63a2b414"


def test_a_lone_surrogate_in_a_salt_has_a_digest():
    assert block_digest(ROOT, (1,), "\ud800", "") != block_digest(ROOT, (1,), "\ud801", "")


def test_an_id_over_64_bits_is_refused():
    with pytest.raises(OverflowError):
        block_digest(ROOT, (2**63,), "", "")
