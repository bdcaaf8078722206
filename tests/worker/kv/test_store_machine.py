"""Random seals, matches, releases and shrinks, beside a plain dictionary that says what must be there."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlxctl.worker.kv.blocks import Block, BlockStore
from mlxctl.worker.kv.chain import block_digest
from mlxctl.worker.kv.integrity import walk
from tests.worker.kv.stories import FULL, STATE, WINDOW, payload

BLOCK = 3
BIGGEST = FULL + WINDOW + STATE
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=14).map(tuple)
SALTS = st.sampled_from(["", "you"])
PARTS = st.sampled_from(["f", "fw", "fws", "fs", "w", "-"])

Key = tuple[str, tuple[int, ...]]
"""A block is told by its salt and all tokens up to its end."""


def colliding_digest(parent, tokens, salt, revision):
    return b"the same for all"


def key_of(block: Block) -> Key:
    tokens: tuple[int, ...] = ()
    above: Block | None = block
    while above is not None:
        tokens = above.tokens + tokens
        above = above.parent
    return block.salt, tokens


def parts_in(block: Block) -> str:
    held = block.payload
    return "".join(
        letter for letter, part in (("f", held.full), ("w", held.window), ("s", held.state)) if part is not None
    )


class Machine(RuleBasedStateMachine):
    @initialize(
        window=st.sampled_from([0, 2, 3, 7]),
        state=st.booleans(),
        budget=st.integers(0, 14),
        digest=st.sampled_from([block_digest, colliding_digest]),
    )
    def start(self, window, state, budget, digest):
        self.window, self.state, self.budget = window, state, budget * FULL
        self.store = BlockStore(
            block_tokens=BLOCK, budget_bytes=self.budget, window_tokens=window, needs_state=state, digest=digest
        )
        self.model: dict[Key, str] = {}
        self.held: list[Block] = []

    # what the model says

    def chain(self, salt: str, tokens: tuple[int, ...]) -> list[Key]:
        ends = [*range(BLOCK, len(tokens), BLOCK), len(tokens)]
        return [(salt, tokens[:end]) for end in ends]

    def is_restorable(self, salt: str, tokens: tuple[int, ...]) -> bool:
        chain = self.chain(salt, tokens)
        if not all("f" in self.model.get(key, "") for key in chain):
            return False
        near = [key for key in chain if self.window and len(key[1]) > len(tokens) - self.window]
        return all("w" in self.model[key] for key in near) and (not self.state or "s" in self.model[chain[-1]])

    def expected_length(self, salt: str, tokens: tuple[int, ...]) -> int:
        return next((end for end in range(len(tokens), 0, -1) if self.is_restorable(salt, tokens[:end])), 0)

    def pinned(self) -> set[Key]:
        return {key for block in self.held for key in self.chain(*key_of(block))}

    def reconcile(self) -> None:
        """Take over what went by eviction, which is nothing that it may not take."""
        present = {key_of(block): parts_in(block) for _, block in walk(self.store._roots)}
        assert present.keys() <= self.model.keys()
        pinned = self.pinned()
        gone = self.model.keys() - present.keys()
        assert not gone & pinned, "a pinned block was evicted"
        held_keys = {key_of(block) for block in self.held}
        stripped = {key for key in present if set(self.model[key]) - set(present[key])}
        for key in stripped:
            assert ("f" in self.model[key]) == ("f" in present[key]), "full parts are never stripped"
            assert key not in held_keys, "a held block lost parts"
            assert not ("s" in self.model[key] and key in pinned), "a state of a chain in use was stripped"
            assert set(present[key]) <= {"f"}
            assert len(key[1]) % BLOCK == 0, "a tail was stripped, and is a leaf"
        self.model = present

    # what happens

    @rule(prompt=PROMPTS, salt=SALTS, parts=st.lists(PARTS, min_size=5, max_size=5), hold=st.booleans())
    def seal_a_prompt(self, prompt, salt, parts, hold):
        parent: Block | None = None
        for key, word in zip(self.chain(salt, prompt), parts, strict=False):
            tokens = key[1][(len(key[1]) - 1) // BLOCK * BLOCK :]
            parent, above = self.seal_one(parent, key, tokens, word), parent
            if above is not None:
                self.give_back(above)
            if parent is None:
                return
        if not hold and parent is not None:
            self.give_back(parent)

    @precondition(lambda self: any(len(block.tokens) == BLOCK for block in self.held))
    @rule(which=st.integers(0, 99), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=BLOCK), word=PARTS)
    def seal_below_a_held_one(self, which, tokens, word):
        full = [block for block in self.held if len(block.tokens) == BLOCK]
        parent = full[which % len(full)]
        salt, before = key_of(parent)
        self.seal_one(parent, (salt, before + tuple(tokens)), tuple(tokens), word)

    def seal_one(self, parent: Block | None, key: Key, tokens: tuple[int, ...], word: str) -> Block | None:
        salt, content = key
        was = self.model.get(key)
        given = payload(word, key)
        sealed_before, full_before = self.store.counters.evicted, self.store.bytes
        block = self.store.seal(parent, tokens, given, salt)
        if block is None:
            assert was is None, "what is there is never refused"
            self.reconcile()
            pinned_bytes = sum(
                payload(self.model[key]).nbytes
                for key in self.pinned() | set(self.chain(*key_of(parent)) if parent is not None else [])
            )
            assert pinned_bytes + given.nbytes > self.budget, "there was room"
            assert self.store.counters.evicted == sealed_before, "blocks were evicted in vain"
            assert self.store.bytes <= full_before
            return None
        assert key_of(block) == key and block.end == len(content)
        self.held.append(block)
        now = set(parts_in(block))
        if was is None:
            assert now == set(word) - {"-"}
        else:
            assert set(was) <= now <= set(was) | set(word), "a shared block keeps what it has, and takes what is new"
        self.model[key] = parts_in(block)
        self.reconcile()
        return block

    def give_back(self, block: Block) -> None:
        self.held.remove(block)
        self.store.release(block)

    @rule(prompt=PROMPTS, salt=SALTS, limit=st.integers(-1, 16), keep=st.booleans())
    def match(self, prompt, salt, limit, keep):
        wanted = prompt[: max(limit, 0)]
        length = self.expected_length(salt, wanted)
        assert self.store.known_length(prompt, limit, salt) == length
        before = self.store.counters.hit_tokens
        match = self.store.match(prompt, limit, salt)
        assert match.length == length
        assert self.store.counters.hit_tokens - before == length
        assert [key_of(block) for block in match.blocks] == (self.chain(salt, wanted[:length]) if length else [])
        assert all(block.payload.full == key_of(block) for block in match.blocks), "somebody else's cache"
        assert match.blocks_for_window == tuple(
            block for block in match.blocks if self.window and block.end > length - self.window
        )
        assert all(block.payload.window == key_of(block) for block in match.blocks_for_window)
        if match.last is not None:
            assert not self.state or match.last.payload.state == key_of(match.last)
            self.held.append(match.last)
            if not keep:
                self.give_back(match.last)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def release(self, which):
        self.give_back(self.held[which % len(self.held)])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def fork(self, which):
        block = self.held[which % len(self.held)]
        self.store.acquire(block)
        self.held.append(block)

    @rule(share=st.integers(0, 100))
    def shrink(self, share):
        before = self.store.bytes
        target = before * share // 100
        freed = self.store.shrink(target)
        assert freed == before - self.store.bytes
        self.reconcile()
        left_idle = self.model.keys() - self.pinned()
        assert self.store.bytes <= target or not left_idle, "it stopped early"
        if freed:
            assert self.store.bytes > target - BIGGEST, "it went on for too long"

    @rule()
    def clear(self):
        self.store.clear()
        self.reconcile()
        assert self.model.keys() == self.pinned()

    # what always holds

    @invariant()
    def the_books_are_right(self):
        self.store.check_integrity()
        assert self.store.bytes == sum(payload(parts).nbytes for parts in self.model.values()) <= self.budget
        assert self.store.blocks == len(self.model)
        assert self.store.referenced == len(self.held)

    @invariant()
    def what_is_held_and_was_restorable_still_is(self):
        restorable = {key for key in map(key_of, self.held) if self.is_restorable(*key)}
        assert self.remembered() <= restorable
        self._remembered = restorable

    def remembered(self) -> set[Key]:
        held = {key_of(block) for block in self.held}
        return getattr(self, "_remembered", set()) & held

    def teardown(self):
        for block in list(getattr(self, "held", [])):
            self.give_back(block)
        if hasattr(self, "store"):
            self.store.clear()
            self.store.check_integrity()
            assert (self.store.blocks, self.store.bytes, self.store.referenced) == (0, 0, 0)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
