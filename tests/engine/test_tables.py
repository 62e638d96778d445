"""The tree's bookkeeping without a model: a shadow cache holds what each block would, and every path is read back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastsia.engine.block_manager import BlockManager, OutOfBlocksError
from fastsia.engine.sequence import FinishReason
from fastsia.engine.tables import NO_BRANCH, NO_NODE, Table, TrajectoryTree, column, wide_column

SIZE = 4


class TreeMachine(RuleBasedStateMachine):
    """Random forks, appends, ends and preemptions over a small pool; each branch's suffix is known by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = TrajectoryTree(BlockManager(24, SIZE))
        self.cache = np.zeros((24, SIZE), dtype=np.int64)
        self.suffix: dict[int, list[int]] = {}
        self.context: dict[int, list[int]] = {}
        self.fresh = 0

    def token(self) -> int:
        self.fresh += 1
        return self.fresh

    def fits(self, table, row: int, length: int) -> bool:
        return self.tree.blocks.blocks_for(length) - int(table.num_blocks[row]) <= self.tree.blocks.num_free

    def compute(self, table, row: int, tokens: list[int]) -> None:
        """What a forward pass does: blocks for all tokens, the missing ones written."""
        self.tree.extend(table, np.array([row]), np.array([len(tokens)]))
        for at in range(int(table.computed[row]), len(tokens)):
            self.cache[table.blocks[row, at // SIZE], at % SIZE] = tokens[at]
        table.computed[row] = len(tokens)

    @rule(length=st.integers(1, 14), share=st.booleans(), pick=st.integers(0, 100))
    def new_trunk(self, length: int, share: bool, pick: int) -> None:
        trunks = self.tree.trunks
        slot = int(trunks.allocate(1)[0])
        tokens = [self.token() for _ in range(length)]
        others = [s for s in self.context if trunks.computed[s] > 0]
        if share and others:
            parent = others[pick % len(others)]
            shared = min(len(self.context[parent]), length - 1)
            tokens[:shared] = self.context[parent][:shared]
            self.tree.share_prefix(parent, slot, shared)
        trunks.length[slot] = length
        if self.fits(trunks, slot, length):
            self.compute(trunks, slot, tokens)
            self.context[slot] = tokens
        else:
            self.tree.end_trunks(np.array([slot]))

    @precondition(lambda self: self.context)
    @rule(pick=st.integers(0, 100))
    def diverge(self, pick: int) -> None:
        slot = list(self.context)[pick % len(self.context)]
        self.open_branch(slot, [])

    def open_branch(self, slot: int, suffix: list[int], branch: int | None = None) -> int:
        tree = self.tree
        if branch is None:
            branch = int(tree.branches.allocate(1)[0])
            tree.branches.trunk[branch] = slot
        rollout = int(tree.rollouts.allocate(1)[0])
        tree.rollouts.trunk[rollout], tree.rollouts.branch[rollout] = slot, branch
        tree.trunks.pending[slot] += 1
        tree.decoding = np.append(tree.decoding, rollout)
        self.suffix[branch] = [*suffix, self.token()]
        tree.branches.length[branch] = len(self.suffix[branch])
        return branch

    @precondition(lambda self: self.suffix)
    @rule(pick=st.integers(0, 100), children=st.integers(0, 3))
    def step(self, pick: int, children: int) -> None:
        """Compute a branch's newest token, fork it, and let every one of them go on with another token."""
        tree, branches = self.tree, self.tree.branches
        branch = list(self.suffix)[pick % len(self.suffix)]
        before = self.suffix[branch]
        if not self.fits(branches, branch, len(before)):
            return
        self.compute(branches, branch, before)
        slots = branches.allocate(children)
        branches.trunk[slots] = branches.trunk[branch]
        src, dst = tree.fork(np.full(children, branch), slots)
        self.cache[dst] = self.cache[src]
        for slot in slots.tolist():
            self.open_branch(int(branches.trunk[branch]), before, slot)
        self.suffix[branch] = [*before, self.token()]
        branches.length[branch] += 1

    @precondition(lambda self: self.suffix)
    @rule(pick=st.integers(0, 100))
    def finish(self, pick: int) -> None:
        tree = self.tree
        branch = list(self.suffix)[pick % len(self.suffix)]
        rollouts = tree.decoding[tree.rollouts.branch[tree.decoding] == branch]
        tree.finish_rollouts(rollouts, np.full(len(rollouts), FinishReason.EOS))
        tree.end_branches(np.array([branch]))
        tree.decoding = tree.decoding[tree.rollouts.branch[tree.decoding] != NO_BRANCH]
        tree.rollouts.free(rollouts)
        del self.suffix[branch]

    @precondition(lambda self: self.suffix)
    @rule(pick=st.integers(0, 100))
    def preempt(self, pick: int) -> None:
        self.tree.drop_blocks(self.tree.branches, np.array([list(self.suffix)[pick % len(self.suffix)]]))

    @precondition(lambda self: self.context)
    @rule(pick=st.integers(0, 100))
    def end_trunk(self, pick: int) -> None:
        slot = list(self.context)[pick % len(self.context)]
        if self.tree.trunks.pending[slot] == 0:
            self.tree.end_trunks(np.array([slot]))
            del self.context[slot]

    @invariant()
    def holds(self) -> None:
        self.tree.check_integrity()
        for table, known in ((self.tree.trunks, self.context), (self.tree.branches, self.suffix)):
            for row, tokens in known.items():
                computed = int(table.computed[row])
                read = self.cache[table.blocks[row, : -(-computed // SIZE)]].reshape(-1)[:computed]
                assert read.tolist() == tokens[:computed], "a path reads back other tokens than it wrote"

    def teardown(self) -> None:
        for branch in list(self.suffix):
            self.tree.end_branches(np.array([branch]))
        self.tree.decoding = np.zeros(0, dtype=np.int32)
        for slot in list(self.context):
            self.tree.end_trunks(np.array([slot]))
        assert self.tree.blocks.num_free == self.tree.blocks.num_blocks, "blocks leaked"


TestTree = TreeMachine.TestCase
TestTree.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def test_paths_are_read_back_from_their_ends() -> None:
    """Rollouts of unequal length on shared paths, in one walk."""
    tree = TrajectoryTree(BlockManager(4, SIZE))
    chain = tree.append_chain(np.array([10, 11, 12]), np.array([-1.0, -2.0, -3.0]), owner=0)
    left = tree.append_nodes(chain[[1, 1]], np.array([20, 21]), np.array([-4.0, -5.0]), 0)
    far = tree.append_nodes(left[:1], np.array([30]), np.array([-6.0]), 0)
    nodes = np.array([far[0], left[1], chain[2], chain[0], NO_NODE])
    offsets, tokens, logprobs = tree.paths(nodes, np.array([4, 1, 2, 1, 0]))
    rows = [tokens[a:b].tolist() for a, b in pairwise(offsets)]
    assert rows == [[10, 11, 20, 30], [21], [11, 12], [10], []]
    assert logprobs[:4].tolist() == [-1.0, -2.0, -4.0, -6.0]


def test_the_pool_refuses_more_than_it_has() -> None:
    blocks = BlockManager(3, SIZE)
    blocks.allocate(2)
    with pytest.raises(OutOfBlocksError, match="2 KV blocks needed, 1 of 3 free"):
        blocks.allocate(2)


def test_releasing_twice_is_an_error() -> None:
    blocks = BlockManager(3, SIZE)
    mine = blocks.allocate(1)
    blocks.release(mine)
    with pytest.raises(AssertionError, match="more often than retained"):
        blocks.release(mine)


def test_a_shared_block_survives_its_first_owner() -> None:
    blocks = BlockManager(3, SIZE)
    mine = blocks.allocate(2)
    blocks.retain(mine[:1])
    blocks.release(mine)
    assert blocks.num_free == 2
    blocks.check_integrity(mine[:1])
    with pytest.raises(AssertionError):
        blocks.check_integrity(mine)


def test_a_table_keeps_its_rows_while_it_grows() -> None:
    class Pairs(Table):
        left = column(np.int32, 7)
        right = wide_column(np.int32)

    table = Pairs(2)
    first = table.allocate(2)
    table.left[first] = [1, 2]
    table.right[first, 0] = [3, 4]
    more = table.allocate(5)
    table.widen("right", 40)
    assert table.left[first].tolist() == [1, 2]
    assert table.right[first, 0].tolist() == [3, 4]
    assert table.left[more].tolist() == [7] * 5
    assert len(set(first.tolist()) | set(more.tolist())) == 7
    table.free(more)
    with pytest.raises(AssertionError, match="freed twice"):
        table.free(more[:1])
    assert len(table) == 2


def test_the_highest_use_is_remembered() -> None:
    blocks = BlockManager(5, SIZE)
    assert blocks.peak_used == 0
    mine = blocks.allocate(3)
    blocks.release(mine[:2])
    blocks.allocate(1)
    assert (blocks.peak_used, blocks.num_free) == (3, 3)
    assert [blocks.blocks_for(n) for n in (0, 1, SIZE, SIZE + 1)] == [0, 1, 1, 2]


def test_books_that_do_not_balance_are_noticed() -> None:
    """Each of the three ways: a count that no table lists, a free list with a block twice or in use, a block lost."""
    none = np.zeros(0, dtype=np.int32)
    blocks = BlockManager(3, SIZE)
    mine = blocks.allocate(1)
    with pytest.raises(AssertionError, match=r"KV blocks \[0\]: counted \[1\], listed \[0\]"):
        blocks.check_integrity(none)
    blocks.free_list[1] = blocks.free_list[0]
    with pytest.raises(AssertionError, match="twice or one in use"):
        blocks.check_integrity(mine)
    blocks.free_list[1] = mine[0]
    with pytest.raises(AssertionError, match="twice or one in use"):
        blocks.check_integrity(mine)
    blocks.num_free = 1
    with pytest.raises(AssertionError, match="neither free nor in use"):
        blocks.check_integrity(mine)


@pytest.fixture
def grown() -> TreeMachine:
    """A trunk of two and a half blocks with three branches, two of which share a full block."""
    machine = TreeMachine()
    machine.new_trunk(2 * SIZE + SIZE // 2, False, 0)
    machine.diverge(0)
    (branch,) = machine.suffix
    machine.suffix[branch] = [machine.token() for _ in range(SIZE + 1)]
    machine.tree.branches.length[branch] = SIZE + 1
    machine.step(0, 2)
    machine.tree.check_integrity()
    return machine


def test_a_block_that_no_row_lists_is_noticed(grown: TreeMachine) -> None:
    grown.tree.blocks.allocate(1)
    with pytest.raises(AssertionError, match=r"KV blocks \[\d+\]: counted \[1\], listed \[0\]"):
        grown.tree.check_integrity()


def test_a_row_with_fewer_blocks_than_tokens_is_noticed(grown: TreeMachine) -> None:
    trunks = grown.tree.trunks
    trunks.computed[list(grown.context)] = 3 * SIZE + 1
    with pytest.raises(AssertionError, match="fewer blocks than it has computed tokens"):
        grown.tree.check_integrity()


def test_a_shared_block_that_would_be_written_is_noticed(grown: TreeMachine) -> None:
    """Two branches share their first block; one of them is made to go on inside of it."""
    branches = grown.tree.branches
    one = list(grown.suffix)[1]
    grown.tree.blocks.release(branches.blocks[one, 1:2])
    branches.num_blocks[one], branches.computed[one] = 1, SIZE - 1
    with pytest.raises(AssertionError, match="a block that will be written is shared"):
        grown.tree.check_integrity()


def test_rollouts_and_branches_that_do_not_belong_together_are_noticed(grown: TreeMachine) -> None:
    tree = grown.tree
    last = tree.decoding[-1]
    branch = int(tree.rollouts.branch[last])
    tree.rollouts.branch[last] = int(tree.rollouts.branch[tree.decoding[0]])
    with pytest.raises(AssertionError, match="a branch is live without a rollout"):
        tree.check_integrity()
    tree.rollouts.branch[last] = branch
    tree.rollouts.trunk[last] += 1
    with pytest.raises(AssertionError, match="another trunk's branch"):
        tree.check_integrity()
    tree.rollouts.trunk[last] -= 1
    tree.check_integrity()
    tree.end_branches(np.array([branch]))
    with pytest.raises(AssertionError, match="a branch that is not live"):
        tree.check_integrity()


def test_trunks_share_full_blocks_only(grown: TreeMachine) -> None:
    """Two tokens short of two blocks are one block; what the parent has not computed cannot be shared."""
    tree, (parent,) = grown.tree, grown.context
    for wanted, blocks in ((2 * SIZE, 2), (2 * SIZE - 2, 1), (9 * SIZE, 2), (SIZE - 1, 0)):
        child = int(tree.trunks.allocate(1)[0])
        tree.share_prefix(parent, child, wanted)
        assert tree.trunks.num_blocks[child] == blocks
        assert tree.trunks.computed[child] == tree.trunks.high_water[child] == blocks * SIZE
        assert tree.trunks.blocks[child, :blocks].tolist() == tree.trunks.blocks[parent, :blocks].tolist()
        tree.check_integrity()
        tree.end_trunks(np.array([child]))
    tree.check_integrity()
