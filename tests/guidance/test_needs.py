"""What losses declare to need, sums of them, and what is refused before anything runs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from heedful.guidance import GuidanceError, Objective, TokenNotFoundError
from heedful.guidance.losses import (
    LOSSES,
    attend_and_excite,
    beyond,
    inner_box,
    jensen_shannon_binding,
    name_of,
    needs,
    overlap,
    required_by,
    retention,
    self_attention_conflict,
    symmetric_kl_binding,
    taken_by,
    weighted,
    weighted_sum,
)
from heedful.guidance.regions import Box
from loss_cases import LAST, SPANS, given, random_maps
from tiny import tiny_tokenizer

PROMPT = "a red bow and a cat"


def least(maps, spans):
    """A user's own loss: it needs nothing beside maps and spans."""
    return torch.stack([1 - image.max() for image in maps.mean()])


def test_a_sum_is_the_losses_times_their_weights():
    maps = random_maps()
    found = weighted_sum({attend_and_excite: 2.0, overlap: -0.5, least: 3}, maps, SPANS, last=LAST)
    expected = (
        2 * attend_and_excite(maps, SPANS, last=LAST)
        - 0.5 * overlap(maps, SPANS, last=LAST)
        + 3 * least(maps, SPANS)
    )
    torch.testing.assert_close(found, expected)
    assert torch.equal(weighted_sum([least], maps, SPANS, last=LAST), least(maps, SPANS))


def test_every_loss_is_given_what_it_declares_and_no_more():
    maps = random_maps()
    for loss in LOSSES.values():
        alone = loss(maps, SPANS, **{key: one for key, one in given(maps).items() if key in taken_by(loss)})
        assert torch.equal(weighted_sum([loss], maps, SPANS, **given(maps)), alone)


def test_needs_are_seen_through_settings_and_aims():
    mean = partial(attend_and_excite, reduction="mean")
    assert required_by(mean) == required_by(beyond(attend_and_excite, 0.2)) == {"last"}
    assert taken_by(beyond(LOSSES["nt_xent"], 1.0)) == {"last", "groups", "previous"}
    assert name_of(mean) == "attend_and_excite"
    assert name_of(beyond(overlap, 0.25)) == "overlap beyond 0.25"


def test_a_loss_beyond_its_aim_is_what_is_left_to_reach_it():
    maps = random_maps()
    loss = overlap(maps, SPANS, last=LAST)
    found = beyond(overlap, float(loss[0]) - 0.1)(maps, SPANS, last=LAST)
    assert found[0] == pytest.approx(0.1)
    assert beyond(overlap, 0.6)(maps, SPANS, last=LAST).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: weighted_sum({}, m, SPANS), "a mapping of loss to weight"),
        (lambda m: weighted("overlap"), "got 'overlap'"),
        (lambda m: weighted({"overlap": 1.0}), "is a function .* got 'overlap'"),
        (lambda m: weighted_sum({overlap: float("nan")}, m, SPANS), "weight of overlap .* got nan"),
        (lambda m: weighted_sum([overlap], m, SPANS), "overlap needs last; got none"),
        (lambda m: weighted_sum([lambda m, s: m.mean().sum()], m, SPANS), r"shape \(2,\); got \(\)"),
        (lambda m: weighted_sum([lambda m, s: 1.0], m, SPANS), r"shape \(2,\); got float"),
        (lambda m: weighted_sum([lambda m, s: least(m, s).detach()], m, SPANS), "has no gradient"),
        (lambda m: needs("word"), "cannot need 'word'; the needs are: pairs, last"),
        (lambda m: beyond(overlap, float("inf")), "an aim is a finite number"),
    ],
)
def test_what_is_no_loss_is_refused(call, message):
    with pytest.raises(GuidanceError, match=message):
        call(random_maps(follow=True))


def context(objective, prompt=PROMPT):
    tokenizer = tiny_tokenizer()
    prompts = [prompt] if isinstance(prompt, str) else prompt
    return objective.context(tokenizer, prompts, objective.spans(tokenizer, prompts, len(prompts)))


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (Objective([overlap], words=["cat"]), GuidanceError, "overlap compares .* prompt 0 has one: cat"),
        (
            Objective([symmetric_kl_binding], words=["cat"]),
            GuidanceError,
            "needs a noun with a modifier; prompt 0 has none among its words: cat",
        ),
        (
            Objective([symmetric_kl_binding], words=["cat"], groups=["blue cat"]),
            TokenNotFoundError,
            '"blue cat" is not in',
        ),
        (Objective([inner_box], words=["cat"]), GuidanceError, "inner_box needs a box .* boxes=.*cat"),
        (
            Objective([inner_box], words=["cat"], boxes={"dog": (0, 0, 1, 1)}),
            GuidanceError,
            "'dog', which is none of the guided words: cat",
        ),
        (
            Objective([inner_box], words=["cat"], boxes={"cat": (0, 0, 0, 1)}),
            GuidanceError,
            "left before right",
        ),
        (
            Objective([inner_box], words=["cat"], boxes=[{"cat": (0, 0, 1, 1)}] * 2),
            GuidanceError,
            "boxes has 2 lists for 1 prompt",
        ),
        (
            Objective([self_attention_conflict], words=["cat"]),
            GuidanceError,
            "self_attention_conflict compares words",
        ),
    ],
)
def test_a_loss_without_what_it_needs_is_refused_before_the_run(objective, error, message):
    with pytest.raises(error, match=message):
        context(objective)


def test_a_loss_gets_groups_and_boxes_of_each_prompt():
    prompts = [PROMPT, "a blue frog and a turtle"]
    objective = Objective(
        [jensen_shannon_binding, inner_box],
        words=[["red bow", "cat"], ["turtle", "frog"]],
        boxes=[{"Cat": (0, 0, 0.5, 1)}, {"frog": Box(0, 0, 1, 0.5)}],
    )
    found = context(objective, prompts)
    assert [[group.noun.text for group in own] for own in found["groups"]] == [["bow"], ["frog"]]
    assert [group.modifiers[0].text for own in found["groups"] for group in own] == ["red", "blue"]
    assert found["boxes"] == [(None, Box(0, 0, 0.5, 1)), (None, Box(0, 0, 1, 0.5))]


def test_images_without_words_demand_nothing():
    objective = Objective([overlap, inner_box, symmetric_kl_binding], words=[])
    assert context(objective) == {"groups": [()], "boxes": [()]}


def test_words_with_boxes_are_the_words_where_none_are_named():
    tokenizer = tiny_tokenizer()
    objective = Objective([inner_box], boxes={"cat": (0, 0, 0.5, 1)})
    assert [span.text for span in objective.spans(tokenizer, [PROMPT], 1)[0]] == ["cat"]


def test_what_a_loss_does_not_need_is_not_looked_for():
    assert context(Objective([attend_and_excite, retention], words=["cat"])) == {}


@pytest.mark.parametrize("losses", [[], {}, {overlap: float("inf")}])
def test_an_objective_without_proper_losses_is_refused(losses):
    with pytest.raises(GuidanceError):
        Objective(losses)
