import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastsia.demo import solve
from fastsia.demo.solve import Solutions
from fastsia.tasks.demo import evaluation_examples

from .weights import WEIGHTS


@pytest.fixture(scope="module")
def sft():
    folder = WEIGHTS / "sft"
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_greedy_solutions_do_not_depend_on_the_batch(sft, monkeypatch):
    """Prompts of a batch differ in length: a wrong side of padding or a missing mask would change the shorter ones."""
    examples = evaluation_examples(6)
    together = solve.solve(*sft, examples, 0.0, 1.0)
    monkeypatch.setattr(solve, "BATCH_SIZE", 1)
    assert solve.solve(*sft, examples, 0.0, 1.0) == together


def test_a_solution_that_runs_out_of_tokens_has_not_ended(sft):
    cut = solve.solve(*sft, evaluation_examples(2), 0.0, 1.0, max_new_tokens=5)
    assert cut.num_tokens == [5, 5]
    assert cut.ended == [False, False]
    assert cut.right == [False, False]


def test_describe_states_shares_and_their_number():
    solutions = Solutions(["a", "b"], [10, 20], [True, False], [True, False])
    assert solutions.describe() == "accuracy 0.500 (n = 2), mean length 15.0 tokens, ended 0.500"


def test_the_command_measures_a_folder(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["solve", "--model", str(WEIGHTS / "sft"), "--limit", "3", "--show", "1"])
    solve.main()
    printed = capsys.readouterr().out
    assert evaluation_examples(1)[0].question in printed
    assert "(n = 3)" in printed
