"""The registry of objectives: all that there are can be made, and say what they want."""

from __future__ import annotations

import pytest
import torch
from heedful.emoji.prompts import Prompt
from heedful.evaluation import EvaluationError
from heedful.evaluation.objectives import OBJECTIVES, objective, side_by_side
from heedful.guidance import AttendAndExcite, guide
from heedful.guidance.losses import LOSSES
from tiny import tiny_pipeline

PAIR = Prompt("a cat and a red bow", (("cat", None), ("bow", "red")), "animal-object")
PLAIN_PAIR = Prompt("a cat and a frog", (("cat", None), ("frog", None)), "animal-animal")
THREE = Prompt("a cat and a frog and a dog", (("cat", None), ("frog", None), ("dog", None)), "three")


@pytest.fixture(scope="module")
def pipe():
    made = tiny_pipeline(sample_size=16)
    made.set_progress_bar_config(disable=True)
    return made


def test_every_loss_of_the_library_is_there_alone_and_all_say_what_they_are():
    assert set(LOSSES) <= set(OBJECTIVES)
    for name, one in OBJECTIVES.items():
        assert one.about, name
        assert not one.about.endswith("."), "they stand in tables"
    assert len({one.about for one in OBJECTIVES.values()}) == len(OBJECTIVES)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_each_guides_a_batch_of_which_one_prompt_has_colours(name: str, pipe):
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    with guide(pipe, objective(name, [PAIR, PLAIN_PAIR])) as session:
        pipe([PAIR.text, PLAIN_PAIR.text], num_inference_steps=2, generator=generators, output_type="latent")

    shifts = session.run.total_shifts
    assert [span.text for span in session.run.spans[0]] == ["cat", "bow"]
    silent = name in ("jensen_shannon_binding", "symmetric_kl_binding")
    if name not in ("retention", "box_corners", "initno"):  # silent at the first step, or satisfied by chance
        assert shifts[0] > 0
        assert (shifts[1] > 0) != silent, "without a colour there is nothing to bind"


def test_an_unknown_name_is_refused_with_the_names_that_there_are():
    with pytest.raises(
        EvaluationError,
        match='no objective "magic"; there are: default, thorough, at-once, refined, paper, thrifty',
    ):
        objective("magic", [PAIR])


def test_the_default_is_the_library_s_own():
    assert objective("default", [PAIR]) == AttendAndExcite([["cat", "bow"]])


def test_boxes_stand_side_by_side_over_the_whole_image():
    boxes = list(side_by_side(THREE).values())

    assert list(side_by_side(THREE)) == ["cat", "frog", "dog"]
    assert (boxes[0][0], boxes[-1][2]) == (0, 1)
    assert [one[2] for one in boxes[:-1]] == [one[0] for one in boxes[1:]]
    assert all((one[1], one[3]) == (0, 1) for one in boxes)
