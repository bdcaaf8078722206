"""The step loop: who joins, whose prompt is read, one token for every row. Owned by the engine thread."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from typing import Any, Literal

from mlxctl.worker.config import EngineConfig
from mlxctl.worker.engine.batch import Batch
from mlxctl.worker.engine.chains import Chains
from mlxctl.worker.engine.intake import Intake
from mlxctl.worker.engine.outbox import Outbox
from mlxctl.worker.engine.prefill import Prefill
from mlxctl.worker.engine.sequence import Job, Sequence
from mlxctl.worker.errors import MODEL_ERRORS
from mlxctl.worker.scheduler.ledger import SET_ASIDE_TOKENS, Ledger
from mlxctl.worker.scheduler.line import aged_class, least_deserving, weaker
from mlxctl.worker.scheduler.pace import SMALLEST_CHUNK, Pace
from mlxctl.worker.types import Event, Generation, TokenLogprobs


class StepLoop:
    """`step` is one turn. Nothing here waits for anything but the device."""

    def __init__(
        self,
        model: Any,
        config: EngineConfig,
        *,
        context_length: int,
        batch: Batch,
        chains: Chains,
        ledger: Ledger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.config, self.context_length = model, config, context_length
        self.batch, self.chains, self.ledger, self.clock = batch, chains, ledger, clock
        self.pace = Pace(config.stall_ms / 1000, config.decode_share, config.prefill_tokens)
        self.intake = Intake(config.ageing_s)
        self.outbox = Outbox()
        self.last_progress_s = clock()
        self._number = 0
        self._launched_s = 0.0

    @property
    def is_idle(self) -> bool:
        return not (self.intake or self.batch.rows or self.batch.is_drawing)

    def submit(self, generation: Generation) -> None:
        now, number = self.clock(), self._next_number()
        sequences = [Sequence.of(generation, index, now, number) for index in range(generation.n)]
        self.intake.waiting.append(Job(sequences))

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End one choice or all of a request's, wherever they are. Told by the events of the next step."""
        for row in [*self.batch.rows, *self.intake.sequences()]:
            if row.generation.request_id == request_id and index in (None, row.index):
                self._end(row, "aborted")

    def step(self) -> list[Event]:
        """One turn; what it brought."""
        if self._admit():
            # told at once, before their prompts take their time
            return self.outbox.take()
        if self.intake.reading and self.pace.prefill_due(streaming=bool(self.batch.rows)):
            # what is drawn goes out before reading takes its time
            self._settle()
            self._read_prompts()
        if self._make_room_to_grow():
            launched_s = self.clock()
            self.batch.launch()
            self._settle()
            self._launched_s = launched_s
            self.batch.draw()
            self.outbox.counts.steps += 1
        else:
            self._settle()
        return self.outbox.take()

    def fail(self, error: BaseException) -> list[Event]:
        """Give up everything at hand, after the model broke down in a step."""
        for request_id in dict.fromkeys(row.generation.request_id for row in self._everyone()):
            self.outbox.failed(request_id, error)
        for row in self._everyone():
            self._free(row)
            row.ended = True
        self.batch.clear()
        self.intake = Intake(self.config.ageing_s)
        return self.outbox.take()

    # joining

    def _admit(self) -> bool:
        """Start to read the prompts of those whose turn it is, as far as there is room. False: of none."""
        admitted = False
        for job in self.intake.in_order(self.clock()):
            if self.intake.is_full:
                break
            if any(prefill.is_worth_waiting_for(job) for prefill in self.intake.reading):
                continue
            if not self._reserve(job):
                # those behind wait too, or a large request would never find room
                break
            self.intake.waiting.remove(job)
            try:
                prefill = Prefill(self.model, self.chains, job)
            except MODEL_ERRORS as error:
                self._fail(job.sequences, error)
                continue
            self.intake.reading.append(prefill)
            self.outbox.prefilled(prefill)
            admitted = True
        return admitted

    def _reserve(self, job: Job) -> bool:
        """Set rows and memory aside for a job, at the cost of less urgent rows where need be."""
        rows, tokens = len(job.sequences), self._planned_tokens(job.sequences[0])
        while True:
            if self._rows_free() >= rows and (held := self.ledger.reserve(tokens, rows)) is not None:
                for row in job.sequences:
                    row.reserved = held
                return True
            weak = weaker(self._running(), job.priority)
            freed = sum(row.reserved for row in weak)
            if not weak or self._rows_free() + len(weak) < rows or not self.ledger.has_room(tokens, rows, freed):
                # rows would give way for nothing
                return False
            if self.batch.is_drawing:
                self._settle()
            else:
                self._preempt(weak[0])

    def _rows_free(self) -> int:
        return self.config.max_batch - len(self.batch.rows) - self.intake.rows_to_come

    def _preempt(self, row: Sequence) -> None:
        """Take a row out of the batch: what it has goes to the block store, and it waits where it stood in line."""
        self._leave_batch(row)
        row.waiting_since_s = self.clock()
        self.intake.waiting.append(Job([row], resumed=True))
        self.outbox.counts.preemptions += 1

    def _read_prompts(self) -> None:
        """Read chunks of one prompt or several while the streams can wait. Whose prompt is read to its end joins."""
        started_s, streaming, first = self.clock(), bool(self.batch.rows), True
        until_s = started_s + self.pace.turn_s(running=len(self.batch.rows), coming=self.intake.coming)
        while self.intake.reading:
            now_s = self.clock()
            prefill = self.intake.next_to_read(now_s)
            tokens = self.pace.chunk_tokens(until_s - now_s, streaming=streaming)
            if not first and (now_s >= until_s or (prefill.left and not tokens)):
                break
            # the first chunk is read in any case, or a slow machine would never read at all
            tokens, first = tokens or SMALLEST_CHUNK, False
            self._read_chunk(prefill, tokens)
            if self.batch.rows:
                # somebody waits for a first token now
                until_s = min(until_s, self.clock() + self.pace.stall_s)
            self._admit()
        self.pace.turn_took(self.clock() - started_s, running=len(self.batch.rows), coming=self.intake.coming)

    def _read_chunk(self, prefill: Prefill, tokens: int) -> None:
        started_s = self.clock()
        self.intake.turn += 1
        try:
            count = prefill.read(tokens) if prefill.left else 0
        except MODEL_ERRORS as error:
            self.intake.reading.remove(prefill)
            self._fail(prefill.job.sequences, error)
            return
        if count:
            self.last_progress_s = self.clock()
            self.pace.chunk_took(count, self.last_progress_s - started_s)
            self.outbox.prefilled(prefill)
        if not prefill.left:
            self._join(prefill)  # first: whoever is in no list when this fails would never be told
            self.intake.reading.remove(prefill)

    def _join(self, prefill: Prefill) -> None:
        """Put a job's sequences into the batch; all but the first share the first one's chain."""
        waited_s = prefill.job.waited_s(self.clock())
        for row in prefill.job.sequences:
            caches = prefill.caches
            if row is not prefill.leader:
                self.chains.share(prefill.leader, row)
                # other handles on the same arrays, which the first to write copies
                caches = copy.deepcopy(caches)
                self.outbox.counts.forks += 1
            row.admitted, row.waited_s = self._next_number(), waited_s
            self.batch.admit(row, caches, prefill.target)
        self.outbox.joined(prefill, len(self.batch.rows))

    # going on

    def _make_room_to_grow(self) -> bool:
        """See that every row may take one more token; where memory ends, rows give way. False: no row is left."""
        for row in list(self.batch.rows):
            while row in self.batch.rows:
                if (held := self.ledger.grow(row.reserved, len(row.tokens) + 1)) is not None:
                    row.reserved = held
                    break
                if self.batch.is_drawing:
                    # whoever ends with the token on its way leaves room
                    self._settle()
                else:
                    self._give_way(row)
        return bool(self.batch.rows)

    def _give_way(self, row: Sequence) -> None:
        """Free memory for `row`: of one who came later, of a prompt that is being read, or at last its own."""
        if len(self.batch.rows) > 1:
            self._preempt(least_deserving(self._running()))
        elif self.intake.reading:
            for other in self.intake.put_back(self.intake.reading[-1]):
                self._free(other)
        elif row in self.batch.rows:
            self._end(row, "length")

    def _settle(self) -> None:
        """Read the tokens that are on their way, and hand them out."""
        if not self.batch.is_drawing:
            return
        taken = self.batch.read()
        now = self.clock()
        self.pace.step_took(now - max(self._launched_s, self.last_progress_s))
        self.last_progress_s = now
        for row, token, logprobs in taken:
            if row.ended:  # another choice of its request has just failed
                continue
            self._take(row, token, logprobs)
            if not row.ended and row.sealing and row.cached - row.sealed >= self.config.block_tokens:
                self.chains.seal(row, self.batch.decoder.extract(row), row.cached)

    def _take(self, row: Sequence, token: int, logprobs: TokenLogprobs | None) -> None:
        row.tokens.append(token)
        self.outbox.counts.drawn_tokens += 1
        is_stop, matcher = token in row.generation.stop_tokens, row.matcher
        if matcher is not None and (matcher.error or (not is_stop and not matcher.accept(token))):
            self._take_out(row)
            self._fail([row], RuntimeError(f"the grammar broke off: {matcher.error or 'no token goes on'}"))
            return
        if is_stop:
            self._end(row, "stop", token)
            return
        self.outbox.drawn(row, token, logprobs)
        if matcher is not None and matcher.is_done:
            self._end(row, "stop")
        elif row.num_drawn >= row.generation.max_tokens or len(row.tokens) >= self.context_length:
            self._end(row, "length")

    # leaving

    def _end(self, row: Sequence, reason: Literal["stop", "length", "aborted"], stop_token: int | None = None) -> None:
        self._take_out(row)
        self.outbox.ended(row, reason, stop_token)

    def _take_out(self, row: Sequence) -> None:
        row.ended = True
        if row in self.batch.rows:
            self._leave_batch(row)
        else:
            self.intake.drop(row)
            self._free(row)

    def _leave_batch(self, row: Sequence) -> None:
        if row.cached:
            self.chains.seal_tail(row, self.batch.decoder.extract(row), row.cached)
        self.batch.remove(row)
        self._free(row)

    def _free(self, row: Sequence) -> None:
        self.chains.let_go(row)
        self.ledger.release(row.reserved)
        row.reserved = 0

    def _fail(self, sequences: Several[Sequence], error: BaseException) -> None:
        """A request is over: `sequences`, which are in no list any more, and its other choices wherever they are."""
        request_id = sequences[0].generation.request_id
        for row in [row for row in self._everyone() if row.generation.request_id == request_id]:
            self._take_out(row)
        for row in sequences:
            self._free(row)
            row.ended = True
        self.outbox.failed(request_id, error)

    def _planned_tokens(self, row: Sequence) -> int:
        return min(len(row.tokens) + SET_ASIDE_TOKENS, row.most_tokens, self.context_length)

    def _running(self) -> list[tuple[Sequence, int]]:
        return [(row, aged_class(row.priority, row.waited_s, self.config.ageing_s)) for row in self.batch.rows]

    def _everyone(self) -> list[Sequence]:
        return [*self.batch.rows, *self.intake.sequences()]

    def _next_number(self) -> int:
        self._number += 1
        return self._number
