from __future__ import annotations

import time

import pytest

from mlxctl.worker.kv.blocks import BlockStore, IntegrityError, Match, Payload
from tests.worker.kv.stories import BLOCK, FULL, ids, keep, known, parts_of, payload, seal, use

ROOMY = 10_000


def store(budget_bytes: int = ROOMY, **more) -> BlockStore:
    return BlockStore(block_tokens=BLOCK, budget_bytes=budget_bytes, **more)


def one_digest_for_all(parent, tokens, salt, revision):
    return b"forged, 16 bytes"


@pytest.mark.parametrize(
    ("sealed", "prompt", "limit", "length"),
    [
        pytest.param([], "aaaabbbb", 8, 0, id="an empty store"),
        pytest.param(["aaaabbbb"], "aaaabbbb", 8, 8, id="all of it"),
        pytest.param(["aaaabbbb"], "aaaabbbb", 7, 4, id="one token is left to compute"),
        pytest.param(["aaaabbbb"], "aaaabbbb", 100, 8, id="a limit past the prompt"),
        pytest.param(["aaaabbbb"], "aaaabbbb", 0, 0, id="limit of nothing"),
        pytest.param(["aaaabbbb"], "", -1, 0, id="an empty prompt, N-1"),
        pytest.param(["aaaabbbb"], "aaaabbbbcccc", 11, 8, id="a longer prompt"),
        pytest.param(["aaaabbbb"], "aaaa", 4, 4, id="a shorter prompt"),
        pytest.param(["aaaabbbb"], "aaaabbxb", 8, 4, id="divergence inside a block"),
        pytest.param(["aaaabbbb"], "xaaabbbb", 8, 0, id="divergence at the first token"),
        pytest.param(["aaaabb"], "aaaabbcc", 8, 6, id="a tail within a block"),
        pytest.param(["aaaabb"], "aaaabb", 5, 4, id="a tail past the limit"),
        pytest.param(["aaaabb", "aaaabbb"], "aaaabbbx", 8, 7, id="the longest tail"),
        pytest.param(["aaaabb", "aaaabbb"], "aaaabbxx", 8, 6, id="the longest tail that agrees"),
        pytest.param(["aaaabbb", "aaaabbbb"], "aaaabbbb", 8, 8, id="a full block before a tail"),
        pytest.param(["aaaabbb", "aaaabbbb"], "aaaabbbb", 7, 7, id="a tail where the full block is too long"),
        pytest.param(["aa"], "aabb", 3, 2, id="a tail at the start"),
        pytest.param(["aaaabbbb", "aaaacccc"], "aaaacccc", 8, 8, id="the other branch"),
        pytest.param(["aaaaaaaa"], "aaaaaaaaaaaa", 12, 8, id="equal blocks at different depths"),
    ],
)
def test_a_prompt_finds_the_longest_chain(sealed, prompt, limit, length):
    blocks = store()
    for text in sealed:
        keep(blocks, text)
    assert blocks.known_length(ids(prompt), limit, "") == length
    match = blocks.match(ids(prompt), limit)
    assert match.length == length
    assert [block.payload.full for block in match.blocks] == [
        ("", prompt[: min(at, length)]) for at in range(BLOCK, length + BLOCK, BLOCK)
    ]
    assert sum((block.tokens for block in match.blocks), ()) == ids(prompt[:length])
    assert blocks.referenced == (1 if length else 0)
    blocks.check_integrity()


@pytest.mark.parametrize("digest", [None, one_digest_for_all], ids=["blake2b", "every digest collides"])
def test_equal_blocks_in_another_context_never_match(digest):
    """Of hashes of a block's content alone, [5678|1234] would be made up from the middle of two other prompts."""
    blocks = store(**({} if digest is None else {"digest": digest}))
    keep(blocks, "12345678")
    keep(blocks, "999956781234")
    assert known(blocks, "5678123410") == 0
    assert use(blocks, "5678123410") == 0
    assert known(blocks, "99995678") == 8
    assert blocks.blocks == 5
    blocks.check_integrity()


def test_a_forged_digest_gives_nobody_another_ones_block():
    blocks = store(digest=one_digest_for_all)
    keep(blocks, "aaaabbbb")
    assert known(blocks, "ccccdddd") == 0
    keep(blocks, "ccccdddd")
    match = blocks.match(ids("ccccdddd"), 8)
    assert [block.payload.full for block in match.blocks] == [("", "cccc"), ("", "ccccdddd")]
    blocks.check_integrity()


@pytest.mark.parametrize(("mine", "yours"), [("", "you"), ("you", ""), ("me", "you")])
def test_tenants_do_not_see_each_other(mine, yours):
    blocks = store()
    keep(blocks, "aaaabb", salt=mine)
    assert known(blocks, "aaaabb", salt=yours) == use(blocks, "aaaabb", salt=yours) == 0
    keep(blocks, "aaaabb", salt=yours)
    assert (known(blocks, "aaaabb", salt=mine), blocks.blocks, blocks.counters.shared) == (6, 4, 0)
    assert blocks.match(ids("aaaabb"), 6, yours).blocks[0].payload.full == (yours, "aaaa")
    assert seal(blocks, "aaaa", salt=mine).digest != seal(blocks, "aaaa", salt=yours).digest


def test_the_model_is_part_of_every_digest():
    one, other = store(revision="one"), store(revision="other")
    assert seal(one, "aaaabbbb").digest != seal(other, "aaaabbbb").digest
    assert seal(one, "aaaabbbb").parent.digest != seal(other, "aaaabbbb").parent.digest


@pytest.mark.parametrize(
    ("prompt", "limit", "agreed"),
    [
        ("aaaabbbbcc", 99, 10),
        ("aaaabbbbcx", 99, 9),
        ("aaaabbxx", 99, 6),
        ("aaaabbyy", 99, 7),
        ("aaaabbbb", 5, 5),
        ("aaxx", 99, 2),
        ("xaaa", 99, 0),
        ("", 99, 0),
    ],
)
def test_where_a_prompt_parts_from_what_is_sealed_is_known_to_the_token(prompt, limit, agreed):
    blocks = store()
    keep(blocks, "aaaabbbbcc")
    keep(blocks, "aaaabby")
    assert blocks.common_length(ids(prompt), limit) == agreed
    assert blocks.common_length(ids(prompt), limit, "another tenant") == 0


KINDS = {
    "full": {},
    "window": {"window_tokens": 6},
    "state": {"needs_state": True},
    "both": {"window_tokens": 6, "needs_state": True},
}


@pytest.mark.parametrize(
    ("kind", "text", "parts", "length", "windows"),
    [
        pytest.param("full", "aaaabbbbcc", "f f f", 10, 0, id="plain layers need nothing more"),
        pytest.param("full", "aaaabbbbcc", "f - f", 4, 0, id="a hole in the chain"),
        pytest.param("full", "aaaabbbbcc", "- f f", 0, 0, id="a hole at the start"),
        pytest.param("full", "aaaabbbbcc", "f f -", 8, 0, id="an empty tail"),
        pytest.param("window", "aaaabbbbcccc", "fw fw fw", 12, 2, id="six tokens back are two blocks"),
        pytest.param("window", "aaaabbbbcccc", "f fw fw", 12, 2, id="no window needed further back"),
        pytest.param("window", "aaaabbbbcccc", "fw f fw", 4, 1, id="a gap within reach"),
        pytest.param("window", "aaaabbbbcccc", "fw fw f", 8, 2, id="no window at the end"),
        pytest.param("window", "aaaabbbbcc", "f fw fw", 10, 2, id="a tail, its reach begins at a block's edge"),
        pytest.param("window", "aaaabbbbccc", "f fw fw", 11, 2, id="a longer tail"),
        pytest.param("window", "aaaabbbbc", "f fw fw", 0, 0, id="a shorter tail reaches one block more"),
        pytest.param("window", "aaaabbbbc", "fw fw fw", 9, 3, id="three blocks in reach"),
        pytest.param("window", "aaaabbbbc", "fw fw f", 8, 2, id="a tail without its window"),
        pytest.param("window", "aaaa", "fw", 4, 1, id="fewer tokens than the window"),
        pytest.param("window", "aaaa", "f", 0, 0, id="fewer tokens, and no window"),
        pytest.param("state", "aaaabbbbcccc", "f fs f", 8, 0, id="back to the last state"),
        pytest.param("state", "aaaabbbbcccc", "f f f", 0, 0, id="no state at all"),
        pytest.param("state", "aaaabbbbcc", "f fs fs", 10, 0, id="a tail with a state"),
        pytest.param("state", "aaaabbbbcc", "fs f f", 4, 0, id="a tail without"),
        pytest.param("both", "aaaabbbbcccc", "f fw fws", 12, 2, id="state at the end, windows before it"),
        pytest.param("both", "aaaabbbbcccc", "fws f fws", 4, 1, id="a state whose windows are gone"),
        pytest.param("both", "aaaabbbbcccc", "fw fws fw", 8, 2, id="windows after the last state"),
    ],
)
def test_restored_from_the_deepest_point_that_has_everything(kind, text, parts, length, windows):
    blocks = store(**KINDS[kind])
    keep(blocks, text, parts)
    match = blocks.match(ids(text), len(text))
    assert (match.length, len(match.blocks_for_window)) == (length, windows)
    assert match.blocks_for_window == match.blocks[len(match.blocks) - windows :]
    assert all(block.payload.window is not None for block in match.blocks_for_window)
    assert known(blocks, text) == length
    blocks.check_integrity()


@pytest.mark.parametrize(
    ("stories", "prompt", "length"),
    [
        pytest.param(
            [("aaaabbbbcccc", "fs f f"), ("aaaabb", "f fs"), ("aaaab", "f fs")], "aaaabbbbcccc", 6, id="longest"
        ),
        pytest.param(
            [("aaaabbbbcccc", "fs f f"), ("aaaabb", "f f"), ("aaaab", "f fs")], "aaaabbbbcccc", 5, id="shorter"
        ),
        pytest.param([("aaaabbbb", "f f"), ("aa", "fs")], "aaaabbbb", 2, id="at the root"),
        pytest.param([("aaaabbbbcccc", "fs fs f"), ("aaaabb", "f fs")], "aaaabbbbcccc", 8, id="not before a block"),
    ],
)
def test_tails_beside_the_path_are_restore_points_too(stories, prompt, length):
    blocks = store(needs_state=True)
    for text, parts in stories:
        keep(blocks, text, parts)
    assert use(blocks, prompt) == length


def test_a_block_that_is_there_is_kept_and_takes_the_parts_it_lacks():
    blocks = store(window_tokens=6, needs_state=True)
    first = seal(blocks, "aaaabbbb", "f fw")
    old = first.payload.full
    again = seal(blocks, "aaaabbbb", "fw fws")
    assert again is first
    assert (parts_of(first), blocks.blocks, blocks.counters.shared, blocks.counters.sealed) == ("fw fws", 2, 2, 2)
    assert first.payload.full is old
    assert (first.refs, blocks.referenced) == (2, 2)
    assert blocks.bytes == 2 * FULL + 3 + 3 + 5
    blocks.check_integrity()


def test_a_block_without_room_for_more_parts_is_shared_as_it_is():
    blocks = store(2 * FULL + 4, window_tokens=6)
    last = seal(blocks, "aaaabbbb")
    assert seal(blocks, "aaaabbbb", "fw fws") is last
    assert parts_of(last) == "fw f", "the first window fits, the second does not"
    blocks.check_integrity()


def test_the_caller_cannot_change_what_the_store_counts():
    blocks = store()
    given = payload("f")
    blocks.seal(None, ids("aaaa"), given)
    given.full_bytes = 99
    given.window = "late"
    blocks.check_integrity()


def test_sizes_of_blocks_and_their_place():
    blocks = store()
    tail = seal(blocks, "aaaabbbbcc")
    assert [(block.start, block.end, len(block.tokens)) for block in (tail, tail.parent, tail.parent.parent)] == [
        (8, 10, 2),
        (4, 8, 4),
        (0, 4, 4),
    ]
    assert tail.parent.parent.parent is None
    assert "8-10" in repr(tail)


def test_references_pin_all_that_is_above():
    blocks = store()
    last = seal(blocks, "aaaabbbbcc")
    keep(blocks, "aaaadddd")
    assert blocks.shrink(0) == FULL, "only the branch that nobody holds"
    assert (blocks.blocks, known(blocks, "aaaabbbbcc")) == (3, 10)
    blocks.acquire(last)
    blocks.release(last)
    blocks.clear()
    assert blocks.blocks == 3
    blocks.release(last)
    blocks.clear()
    assert (blocks.blocks, blocks.bytes, blocks.referenced) == (0, 0, 0)
    blocks.check_integrity()


def test_forks_share_what_is_sealed():
    """Four continuations of one prompt: its blocks are there once, and go when the last one lets go."""
    blocks = store()
    prompt = seal(blocks, "aaaabbbb")
    forks = []
    for letter in "wxyz":
        blocks.acquire(prompt)
        forks.append(blocks.seal(prompt, ids(letter * 3), payload("f")))
        blocks.release(prompt)
    blocks.release(prompt)
    assert blocks.blocks == 2 + 4
    for fork in forks:
        assert blocks.shrink(0) == 0 or fork is not forks[0]
        blocks.release(fork)
    assert blocks.shrink(0) == 3 * FULL
    assert blocks.blocks == 0


def test_when_everything_is_held_a_seal_is_refused_and_nothing_is_lost():
    blocks = store(3 * FULL)
    held = seal(blocks, "aaaabbbb")
    keep(blocks, "cccc")
    big = Payload("kv", 2 * FULL)
    assert blocks.seal(held, ids("dddd"), big) is None
    assert (blocks.blocks, known(blocks, "cccc"), blocks.referenced) == (3, 4, 1), "not even the idle block"
    assert (blocks.counters.refused, blocks.counters.evicted) == (1, 0)
    assert blocks.seal(held, ids("dddd"), payload("f")) is not None, "this one fits when the idle block goes"
    assert known(blocks, "cccc") == 0
    blocks.check_integrity()


@pytest.mark.parametrize("budget", [0, FULL - 1])
def test_a_budget_too_small_for_one_block_keeps_nothing(budget):
    blocks = store(budget)
    assert blocks.seal(None, ids("aaaa"), payload("f")) is None
    assert (blocks.blocks, blocks.bytes, known(blocks, "aaaa")) == (0, 0, 0)
    blocks.check_integrity()


def test_sealing_under_a_parent_that_nobody_holds_does_not_evict_it():
    blocks = store(2 * FULL)
    first = seal(blocks, "aaaa")
    blocks.release(first)
    keep(blocks, "zzzz")
    use(blocks, "zzzz")
    second = blocks.seal(first, ids("bbbb"), payload("f"))
    assert second is not None
    assert (known(blocks, "aaaabbbb"), known(blocks, "zzzz")) == (8, 0)
    blocks.check_integrity()


def test_making_room_may_take_the_last_block_of_the_salt_that_is_sealed_into():
    blocks = store(FULL)
    keep(blocks, "aaaa", salt="you")
    keep(blocks, "bbbb", salt="you")
    assert (known(blocks, "bbbb", salt="you"), blocks.blocks) == (4, 1)
    blocks.check_integrity()


@pytest.mark.parametrize(
    ("story", "word"),
    [
        pytest.param(lambda s: s.seal(None, (), payload("f")), "1 to 4 tokens", id="no tokens"),
        pytest.param(lambda s: s.seal(None, ids("aaaaa"), payload("f")), "1 to 4 tokens", id="too many tokens"),
        pytest.param(lambda s: s.seal(seal(s, "aaaabb"), ids("cc"), payload("f")), "tail", id="below a tail"),
        pytest.param(lambda s: s.seal(seal(s, "aaaa"), ids("cc"), payload("f"), "you"), "salt", id="another salt"),
        pytest.param(lambda s: s.seal(None, ids("aa"), Payload("kv", -1)), "-1 bytes", id="a negative size"),
        pytest.param(lambda s: s.seal(None, ids("aa"), Payload(None, 7)), "absent", id="a size without a part"),
    ],
)
def test_a_seal_that_cannot_be(story, word):
    blocks = store()
    with pytest.raises(ValueError, match=word):
        story(blocks)
    blocks.check_integrity()


@pytest.mark.parametrize("story", [lambda s, b: s.acquire(b), lambda s, b: s.seal(b, ids("bbbb"), payload("f"))])
def test_a_block_that_was_evicted_is_of_no_use_and_holds_no_memory(story):
    blocks = store()
    gone = seal(blocks, "aaaa")
    blocks.release(gone)
    blocks.clear()
    assert gone.payload == Payload(None, 0)
    with pytest.raises(ValueError, match="evicted"):
        story(blocks, gone)


def test_a_release_too_many_is_told():
    blocks = store()
    block = seal(blocks, "aaaa")
    blocks.release(block)
    with pytest.raises(IntegrityError, match="more often"):
        blocks.release(block)
    blocks.check_integrity()


@pytest.mark.parametrize(
    "wrong", [{"block_tokens": 0}, {"budget_bytes": -1}, {"window_tokens": -1}], ids=lambda wrong: next(iter(wrong))
)
def test_a_store_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BlockStore(**{"block_tokens": 4, "budget_bytes": 1, **wrong})


def test_what_the_counters_say():
    blocks = store(3 * FULL)
    keep(blocks, "aaaabbbb")
    use(blocks, "aaaabbbbcc")
    use(blocks, "zzzz")
    known(blocks, "aaaabbbb")
    keep(blocks, "aaaacccc")
    keep(blocks, "dddd")
    told = blocks.counters
    assert (told.lookups, told.hits, told.lookup_tokens, told.hit_tokens) == (2, 1, 14, 8)
    assert (told.sealed, told.shared, told.refused, told.stripped) == (4, 1, 0, 0)
    assert (told.evicted, told.evicted_bytes) == (1, FULL)
    assert (blocks.blocks, blocks.bytes, blocks.budget_bytes, blocks.block_tokens) == (3, 30, 30, 4)


def test_an_empty_match_is_not_held():
    blocks = store()
    match = blocks.match(ids("aaaa"), 4)
    assert match == Match((), 0, ()) and match.last is None


def test_looking_leaves_no_trace():
    blocks = store(2 * FULL)
    keep(blocks, "aaaa")
    keep(blocks, "bbbb")
    known(blocks, "aaaa")
    keep(blocks, "cccc")
    assert (known(blocks, "aaaa"), known(blocks, "bbbb")) == (0, 4)
    assert blocks.counters.lookups == 0


@pytest.mark.parametrize("window_tokens", [0, 64])
def test_fifty_thousand_blocks(window_tokens):
    """A scan of the blocks at each eviction would take minutes here; a walk of the chain at each seal nearly so."""
    chats, depth = 100, 500
    blocks = BlockStore(block_tokens=4, budget_bytes=chats * depth * 5, window_tokens=window_tokens)
    began = time.perf_counter()
    for chat in range(2 * chats):
        held = None
        for at in range(depth if chat < chats else depth // 4):
            block = blocks.seal(held, (chat, at, 0, 0), Payload("kv", 5, "w", 2))
            assert block is not None
            if held is not None:
                blocks.release(held)
            held = block
        blocks.release(held)
    prompt = [token for at in range(depth) for token in (chats - 1, at, 0, 0)]
    for _ in range(50):
        match = blocks.match(prompt, len(prompt) - 1)
        assert match.length > 1000
        blocks.release(match.last)
    assert blocks.blocks > 30_000
    blocks.clear()
    assert blocks.blocks == 0
    assert time.perf_counter() - began < 30
