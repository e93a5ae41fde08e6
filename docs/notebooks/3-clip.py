"""Source of the notebook on CLIP: which patches and words a score rests on, and whether a word is there."""

# %% [markdown]
# # 3. Explaining CLIP
#
# CLIP has two towers. One turns an image into a vector, the other a text, and their cosine says how well
# the two fit. A high score alone is little to go by: does the model see the turtle, or does it like the
# green? Because the score is one number that depends on both, its gradient reaches both towers, and we can
# ask two things at once: *which patches* and *which words* does it rest on?
#
# The model is heedful's embedded CLIP, trained on scenes of an emoji world and their captions. Any CLIP or
# SigLIP of transformers takes its place.

# %%
import torch
from heedful.emoji import load_clip
from heedful.emoji.samples_vision import pictures, pixels, two_subjects
from heedful.explain import Tile, explain, sheet

model, tokenizer = load_clip(device="cpu")
scene = two_subjects([4])[0]
image = pictures([scene])[0]
sheet([[Tile(image, f"its caption: {scene.caption}")]], side=180)

# %% [markdown]
# ## One image, many texts
#
# First the score as it is mostly used: against many texts, and through a softmax. The softmax shares 1
# among the texts, so it says which text fits *best*, never whether any fits at all.

# %%
texts = ["a turtle", "a suitcase", "a red suitcase", "a blue suitcase", "a frog", "a lion"]


def inputs_for(texts):
    """What the model takes: the image once, and the texts."""
    return {"pixel_values": pixels([scene]), **tokenizer(texts, padding=True, return_tensors="pt")}


with torch.inference_mode():
    scores = model(**inputs_for(texts)).logits_per_image[0]
for text, score, part in zip(texts, scores, scores.softmax(0), strict=True):
    print(f"{text:18} score {score:6.2f}   share {part:6.1%}")

# %% [markdown]
# ## Which patches, which words
#
# `explain` takes the same inputs as the model. The image runs through its tower once, however many texts
# there are, and each text gets a row of its own: a map over the patches, and one over its words.

# %%
asked = ["a red suitcase", "a turtle", "a red suitcase and a turtle"]


def words_of(texts):
    """The tokens of each text as text, for the pictures."""
    return [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(texts, padding=True)["input_ids"]]


relevance = explain(model, inputs_for(asked), words=words_of(asked))
sheet([[Tile(relevance.overlay(image, row), text) for row, text in enumerate(asked)]], side=180)

# %% [markdown]
# The maps go where the words belong. The words themselves, each as a share of what its text got:

# %%
for text, tokens, row in zip(asked, relevance.words, relevance.text, strict=True):
    told = [(token.removesuffix("</w>"), value) for token, value in zip(tokens, row / row.sum(), strict=True)]
    print(f"{text:30}", "  ".join(f"{token} {value:.0%}" for token, value in told if value > 0))

# %% [markdown]
# ## What tells one text from another
#
# "A red suitcase" scores high for its suitcase *and* for its red. To see the red alone, explain a
# difference: the target may be any function of the model's outputs that gives one number a text. Here each
# text's score is held against the other's.

# %%
colours = ["a red suitcase", "a blue suitcase"]
contrast = explain(
    model,
    inputs_for(colours),
    target=lambda outputs: outputs.logits_per_text[:, 0] - outputs.logits_per_text[:, 0].flip(0),
    words=words_of(colours),
)
told = [
    f"{text}: {score:+.1f} against the other" for text, score in zip(colours, contrast.scores, strict=True)
]
sheet([[Tile(contrast.overlay(image, row), text) for row, text in enumerate(told)]], side=180)

# %% [markdown]
# What speaks for red is the suitcase, and the suitcase alone. What speaks for blue is the one thing that is
# not red: the better of two poor arguments, as the score says.
#
# ## A map is no verdict
#
# Ask for a thing that is not there, and there is a map, too: something must be *least unlike* it. Colours
# are stretched within each picture, so it looks as sure as any other.

# %%
absent = ["a turtle", "a frog", "a clock"]
shown = explain(model, inputs_for(absent))
sheet(
    [[Tile(shown.overlay(image, row), f"{text}: score {shown.scores[row]:.1f}")
      for row, text in enumerate(absent)]],
    side=180,
)  # fmt: skip

# %% [markdown]
# Nor does a score say whether a thing is there: it has no zero. `check` therefore never reads one score
# alone. It asks how much better the sentence fits *with* the word than without it or with others in its
# place, and turns that into a probability that was calibrated on scenes whose truth is known.

# %%
from heedful.explain import check

verdict = check(image, ["red suitcase", "turtle", "frog"], prompt="a red suitcase, a turtle and a frog")
for one in verdict.words:
    print(f"{one.word:14} {one.verdict:10} {one.probability:6.1%}")

# %% [markdown]
# ## Where it is needed: an image that lost a word
#
# Diffusion models lose subjects. The embedded one was asked for a bear and a frog; CLIP says what came.
#
# [explain.md](../explain.md) tells more of `explain`, [check.md](../check.md) how a verdict is found, and
# [benchmarks.md](../benchmarks.md#is-each-word-in-the-image) how often it is right. What to do about the
# lost word is the subject of the [last notebook](5-guidance.ipynb).

# %%
from heedful.emoji import load_pipeline

pipe = load_pipeline(device="cpu")
prompt, words = "a bear and a frog", ["bear", "frog"]
drawn = [
    pipe(prompt, num_inference_steps=20, generator=torch.Generator().manual_seed(seed)).images[0]
    for seed in (0, 1)
]
verdicts = check(drawn, words, prompt=prompt)
rows = [
    [Tile(each, f"seed {seed}")] + [Tile(found.overlay(each, word), f"{word}: {found[word].verdict} "
                                         f"({found[word].probability:.0%})") for word in words]
    for seed, (each, found) in enumerate(zip(drawn, verdicts, strict=True))
]  # fmt: skip
sheet(rows, title=f"“{prompt}”: what is there, and where CLIP recognises it", side=170)
