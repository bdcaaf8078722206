"""Which goes first. Parts are worth 10 (full), 3 (window) and 5 (state) bytes, blocks have four tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.worker.kv.blocks import BlockStore
from mlxctl.worker.kv.chain import ROOT
from mlxctl.worker.kv.eviction import LruQueue
from mlxctl.worker.kv.tree import Block, Payload
from tests.worker.kv.stories import BLOCK, FULL, STATE, WINDOW, ids, keep, known, parts_of, seal, use


def store(budget_bytes: int = 10_000, **more) -> BlockStore:
    return BlockStore(block_tokens=BLOCK, budget_bytes=budget_bytes, **more)


@pytest.mark.parametrize(
    ("story", "left"),
    [
        pytest.param("+a +b +c +d", "bcd", id="the oldest goes"),
        pytest.param("+a +b +c a +d", "acd", id="unless it was used"),
        pytest.param("+a +b +c b a +d +e", "ade", id="the order of use counts"),
        pytest.param("+a +b +c +a +d", "acd", id="sealed again is used"),
        pytest.param("+a a a +b +c b c +d +e +f +g", "afg", id="hit twice outlives a parade of others"),
        pytest.param("+a a +b +c b c +d +e +f +g", "efg", id="hit once does not"),
        pytest.param("+a a a +b b b +c c +d", "abd", id="the protected go after all others"),
        pytest.param("+a a a +b b b +c c c +d", "bcd", id="no more than their share is protected"),
        pytest.param("+a a a +b b b +c c c +d +e", "bce", id="those within it still are"),
    ],
)
def test_the_order_in_which_leaves_go(story, left):
    blocks = store(3 * FULL + 2)
    for word in story.split():
        if word.startswith("+"):
            keep(blocks, word[1] * BLOCK)
        else:
            assert use(blocks, word * BLOCK) == BLOCK, f"{word} was gone early"
        blocks.check_integrity()
    assert "".join(letter for letter in "abcdefg" if known(blocks, letter * BLOCK)) == left


@pytest.mark.parametrize(
    ("story", "left"),
    [
        pytest.param("aa bb cc dd ee +f +g", "bcdefg", id="over their share, the oldest protected one goes first"),
        pytest.param("aa bb cc dd +e +f +g", "abcdfg", id="within it, none does"),
        pytest.param("aa bb cc dd ee ff +g b +h +i", "cdefhi", id="who lost protection has to earn it anew"),
        pytest.param("aa bb cc dd ee ff +g bb +h +i", "bdefhi", id="and can"),
    ],
)
def test_the_protected_have_four_fifths_of_the_room(story, left):
    """Room for six blocks. A letter is a use, a double letter one sealed and used, and used again."""
    blocks = store(6 * FULL)
    for word in story.split():
        if word.startswith("+") or not known(blocks, word[0] * BLOCK):
            keep(blocks, word[-1] * BLOCK)
        for letter in "" if word.startswith("+") else word:
            assert use(blocks, letter * BLOCK) == BLOCK, f"{letter} was gone early"
        blocks.check_integrity()
    assert "".join(letter for letter in "abcdefghi" if known(blocks, letter * BLOCK)) == left


def test_a_chain_goes_from_its_end():
    blocks = store()
    keep(blocks, "aaaabbbbccccdd")
    lengths = []
    while blocks.blocks:
        assert blocks.shrink(blocks.bytes - 1) == FULL
        lengths.append(known(blocks, "aaaabbbbccccdd"))
        blocks.check_integrity()
    assert lengths == [12, 8, 4, 0]


def test_a_shared_beginning_outlives_its_branches():
    blocks = store()
    for letter in "bcde":
        keep(blocks, "aaaa" + letter * BLOCK)
    blocks.shrink(2 * FULL)
    assert [known(blocks, "aaaa" + letter * BLOCK) for letter in "bcde"] == [4, 4, 4, 8]


def test_an_older_chain_goes_whole_before_a_younger_one_loses_anything():
    blocks = store()
    keep(blocks, "aaaabbbbcccc")
    keep(blocks, "ddddeeeeffff")
    blocks.shrink(4 * FULL)
    assert (known(blocks, "aaaabbbbcccc"), known(blocks, "ddddeeeeffff")) == (4, 12)


@pytest.mark.parametrize(("to_bytes", "freed"), [(100, 0), (60, 0), (59, 10), (35, 30), (0, 60), (-5, 60)])
def test_shrink_tells_what_it_gave_back(to_bytes, freed):
    blocks = store()
    for letter in "abcdef":
        keep(blocks, letter * BLOCK)
    assert blocks.shrink(to_bytes) == freed
    assert blocks.bytes == 60 - freed
    blocks.check_integrity()


def strip_all(blocks: BlockStore) -> None:
    """Take parts for as long as no leaf has to go for it."""
    while True:
        before = blocks.counters.evicted
        here = blocks.bytes
        blocks.shrink(blocks.bytes - 1)
        assert blocks.bytes < here
        blocks.check_integrity()
        if blocks.counters.evicted > before:
            return


@pytest.mark.parametrize(
    ("window_tokens", "text", "after"),
    [
        pytest.param(8, "aabb", "fw", id="a leaf keeps its window"),
        pytest.param(
            8, "aaaabbbbccccddddeeee", "f f fw fw fw", id="two blocks above a leaf, and one for one block short"
        ),
        pytest.param(8, "aaaabbbbccccddddee", "f fw fw fw fw", id="one more where the tail is short"),
        pytest.param(9, "aaaabbbbccccddddeeee", "f fw fw fw fw", id="a token more is a block more"),
        pytest.param(7, "aaaabbbbccccddddeeee", "f f fw fw fw", id="a token less is not a block less"),
        pytest.param(4, "aaaabbbbccccddddeeee", "f f f fw fw", id="a window of one block"),
        pytest.param(100, "aaaabbbbccccddddeeee", "fw fw fw fw fw", id="a window over everything"),
    ],
)
def test_windows_that_no_leaf_reaches_go_first(window_tokens, text, after):
    blocks = store(window_tokens=window_tokens)
    last = seal(blocks, text, "fw")
    blocks.release(last)
    keep(blocks, "zzzz", "fw")
    blocks.shrink(blocks.bytes - (after.split().count("f")) * WINDOW)
    assert parts_of(last) == after
    assert (blocks.counters.evicted, blocks.counters.stripped) == (0, after.split().count("f"))
    assert known(blocks, text) == len(text), "still restorable at its end"
    assert blocks.known_length(ids(text), len(text) - 1) == (len(text) - 1) // BLOCK * BLOCK, "and one block short"
    blocks.shrink(blocks.bytes - 1)
    assert blocks.counters.evicted == 1, "and then leaves"
    blocks.check_integrity()


@pytest.mark.parametrize(
    ("parts", "after"),
    [
        pytest.param("f fs f fs fs", "f f f f fs", id="the last state is enough"),
        pytest.param("f fs f fs f", "f f f fs f", id="the last one stays where the leaf has none"),
        pytest.param("f f f f fs", "f f f f fs", id="nothing to spare"),
        pytest.param("fs f f f f", "fs f f f f", id="the only one stays"),
    ],
)
def test_states_above_another_state_go_first(parts, after):
    blocks = store(needs_state=True)
    text = "aaaabbbbccccddddeeee"
    last = seal(blocks, text, parts)
    length = known(blocks, text)
    assert blocks.shrink(0 if parts == after else blocks.bytes) == 0, "states of a chain in use all stay"
    blocks.release(last)
    spare = parts.count("s") - after.count("s")
    assert blocks.shrink(blocks.bytes - spare * STATE) == spare * STATE
    assert (parts_of(last), blocks.counters.evicted, known(blocks, text)) == (after, 0, length)
    blocks.check_integrity()


def test_windows_before_a_state_stay_with_it():
    blocks = store(window_tokens=4, needs_state=True)
    last = seal(blocks, "aaaabbbbccccddddeeeeffffgggghhhh", "fw fw fws fw fw fws fw f")
    middle = last.parent.parent
    blocks.acquire(middle)
    blocks.release(last)
    assert blocks.shrink(blocks.bytes - 2 * WINDOW) == 2 * WINDOW
    assert parts_of(last) == "f fw fws f fw fws fw f", "held: both states are restore points, each with its windows"
    blocks.release(middle)
    assert blocks.shrink(blocks.bytes - 2 * WINDOW - STATE) == 2 * WINDOW + STATE
    assert parts_of(last) == "f f f f fw fws fw f"
    assert (blocks.counters.evicted, known(blocks, "aaaabbbbccccddddeeeeffff")) == (0, 24)


def test_windows_that_a_state_kept_go_after_it():
    blocks = store(window_tokens=4, needs_state=True)
    last = seal(blocks, "aaaabbbbccccddddeeeeffffgggghhhh", "fw fw fws fw fw fws fw f")
    blocks.release(last)
    assert blocks.shrink(blocks.bytes - 4 * WINDOW - STATE) == 4 * WINDOW + STATE
    assert (parts_of(last), blocks.counters.evicted) == ("f f f f fw fws fw f", 0)


def test_a_branch_point_keeps_what_a_restore_there_needs_until_it_is_none():
    blocks = store(window_tokens=4)
    stem = "aaaabbbbcccc"
    left = seal(blocks, stem + "ddddeeeeffff", "fw")
    blocks.release(left)
    keep(blocks, stem + "xxxxyyyyzzzz", "fw")
    blocks.shrink(blocks.bytes - 3 * WINDOW)
    assert parts_of(left) == "f fw fw f fw fw"
    assert (use(blocks, stem + "new!"), blocks.counters.evicted) == (len(stem), 0)
    use(blocks, stem + "ddddeeeeffff")
    blocks.shrink(blocks.bytes - 2 * FULL)
    assert blocks.blocks == 6 + 1, "nothing is to spare, so the end of the other branch has gone"
    while blocks.blocks > 6:
        blocks.shrink(blocks.bytes - 1)
    assert blocks.shrink(blocks.bytes - 2 * WINDOW) == 2 * WINDOW
    assert parts_of(left) == "f f f f fw fw", "nothing parts ways here any more"
    assert (blocks.blocks, known(blocks, stem + "ddddeeeeffff")) == (6, 24)


def test_a_restore_point_that_was_used_is_kept_until_a_deeper_one_is():
    blocks = store(window_tokens=4)
    chain = "aaaabbbbccccddddeeee"
    keep(blocks, "zzzz")
    last = seal(blocks, chain, "fw")
    blocks.release(last)
    assert use(blocks, "aaaabbbbQQQQ") == 8
    blocks.shrink(blocks.bytes - 2 * WINDOW - 1)
    assert (parts_of(last), known(blocks, "zzzz")) == ("f fw f fw fw", 0), "a leaf went before it"
    held = blocks.match(ids(chain), len(chain))
    assert held.length == 20
    assert blocks.shrink(0) == WINDOW
    assert parts_of(last) == "f f f fw fw"


@pytest.mark.parametrize("depth", range(1, 6))
def test_each_block_that_is_held_keeps_the_windows_of_its_restore(depth):
    """By a reference alone, without a match; the chain that goes on from it is held as well."""
    blocks = store(window_tokens=4)
    text = "aaaabbbbccccddddeeeeffffgggg"
    held = seal(blocks, text[: depth * BLOCK], "fw")
    last = seal(blocks, text, "fw")
    assert blocks.shrink(0) > 0
    needed = {depth, max(depth - 1, 1), 6, 7}
    assert parts_of(last) == " ".join("fw" if at in needed else "f" for at in range(1, 8))
    assert known(blocks, text[: depth * BLOCK]) == depth * BLOCK
    blocks.release(held)
    blocks.shrink(0)
    assert parts_of(last) == "f f f f f fw fw"


@pytest.mark.parametrize(
    ("branch", "after"),
    [(1, "fw f f f fw fw"), (2, "fw fw f f fw fw"), (3, "f fw fw f fw fw"), (4, "f f fw fw fw fw")],
)
def test_each_branch_point_keeps_its_windows(branch, after):
    """With the branches long enough to have no need of windows before the branch point."""
    blocks = store(window_tokens=4)
    text = "aaaabbbbccccddddeeeeffff"
    last = seal(blocks, text, "fw")
    seal(blocks, text[: branch * BLOCK] + "xxxxyyyyzzzz", "fw")
    blocks.shrink(0)
    assert parts_of(last) == after
    blocks.check_integrity()


def test_windows_of_the_chain_used_longest_ago_go_first():
    blocks = store(window_tokens=4)
    chains = {letter: seal(blocks, letter * 16, "fw") for letter in "abc"}
    for last in chains.values():
        blocks.release(last)
    use(blocks, "a" * 16)
    for expected in (("a", "c"), ("a",), ()):
        blocks.shrink(blocks.bytes - 2 * WINDOW)
        whole = tuple(letter for letter, last in chains.items() if parts_of(last) == "fw fw fw fw")
        assert whole == expected
        blocks.check_integrity()


def test_a_long_prompt_does_not_choke_on_its_own_windows():
    """All its blocks are pinned by the one being read; the windows out of its reach still go."""
    room = 20 * FULL + 4 * WINDOW
    blocks = store(room, window_tokens=8)
    last = seal(blocks, "abcd" * 20, "fw")
    assert parts_of(last) == " ".join(["f"] * 16 + ["fw"] * 4)
    assert blocks.seal(last, ids("zzzz"), Payload("kv", FULL)) is None
    assert known(blocks, "abcd" * 20) == 80
    blocks.check_integrity()


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_block_that_is_held_stays_restorable(depth):
    blocks = store(window_tokens=8, needs_state=False)
    text = "aaaabbbbccccddddeeee"
    keep(blocks, text, "fw")
    match = blocks.match(ids(text), depth * BLOCK)
    blocks.shrink(0)
    assert known(blocks, text) == depth * BLOCK
    assert all(block.payload.window is not None for block in match.blocks_for_window)
    assert blocks.blocks == depth
    blocks.check_integrity()


def test_no_leaf_goes_while_parts_are_to_spare():
    blocks = store(window_tokens=4)
    keep(blocks, "zzzz", "fw")
    keep(blocks, "aaaabbbbccccdddd", "fw")
    blocks.shrink(blocks.bytes - 1)
    assert (known(blocks, "zzzz"), blocks.counters.stripped) == (4, 1)


def test_parts_to_spare_run_out_and_everything_goes_in_the_end():
    blocks = store(window_tokens=8, needs_state=True)
    keep(blocks, "aaaabbbbccccddddeeee", "fw fw fws fw fws")
    keep(blocks, "aaaabbbbxxxxyyyyzz", "fw fw fws fw fws")
    while blocks.blocks:
        strip_all(blocks)
    assert blocks.bytes == 0


def made(count: int) -> list[Block]:
    return [Block(None, (at,), ROOT, Payload(None, 0), "") for at in range(count)]


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "use", "pop"]), st.integers(0, 4)), max_size=60))
def test_the_line_is_a_sorted_list(events):
    line, model, blocks = LruQueue(), [], made(5)
    for now, (event, which) in enumerate(events, start=1):
        block = blocks[which]
        if event == "add":
            line.add(block)
            model += [block] * (block not in model)
        elif event == "discard":
            line.discard(block)
            model = [other for other in model if other is not block]
        elif event == "use":
            block.last_used = now
        else:
            # equals leave in the order in which they came
            expected = min(model, key=lambda other: other.last_used, default=None)
            assert line.pop() is expected
            model = [other for other in model if other is not expected]
        assert len(line) == len(model)
        assert all((other in line) == (other in model) for other in blocks)


def test_a_line_that_is_joined_and_left_for_ever_stays_small():
    line, blocks = LruQueue(), made(10)
    for now in range(5_000):
        block = blocks[now % 10]
        line.discard(block)
        block.last_used = now
        line.add(block)
    assert len(line) == 10
    assert len(line._heap) < 100
