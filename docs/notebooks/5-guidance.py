"""Source of the notebook on guided diffusion: where words look while an image is made, and a nudge."""

# %% [markdown]
# # 5. Guiding diffusion
#
# So far attention was read to explain what a model did. A diffusion model gives us the chance to use it: an
# image is made in many steps, the words of the prompt look at the image through cross-attention in each,
# and what they look at can still be changed.
#
# The model is heedful's embedded Stable Diffusion, a small one of an emoji world. With yours the calls are
# the same.

# %%
import torch
from heedful.emoji import load_judge, load_pipeline
from heedful.explain import Tile, sheet
from heedful.explain.probing.plots import empty, png
from heedful.guidance import AT_ONCE, AttendAndExcite, RelativeStep, guide, record
from IPython.display import Image

pipe, judge = load_pipeline(device="cpu"), load_judge(device="cpu")
prompt, words, steps = "a bear and a frog", ["bear", "frog"], 20


def draw(prompt, seeds):
    """The images of these seeds; the same noise every time."""
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe([prompt] * len(noise), num_inference_steps=steps, generator=noise).images


def seen(image):
    """What the embedded judge sees in it."""
    return "the judge sees: " + ", ".join(judge([image])[0].subjects)


plain = draw(prompt, [0])[0]
sheet([[Tile(plain, seen(plain))]], side=200)

# %% [markdown]
# We asked for a bear and a frog. Where did *frog* go?
#
# ## Recording attention
#
# `record` watches the pipeline's cross-attention while it draws and changes no pixel. Its maps say for each
# word which share of a place's attention it holds, on average or step by step. And a `guide` whose steps
# have length zero tells what guidance would make of it, without moving anything.

# %%
looking = AttendAndExcite(words=words, schedule=AT_ONCE, step=RelativeStep(0.0))
with record(pipe, resolve=["step"]) as recording, guide(pipe, looking) as session:
    again = draw(prompt, [0])[0]
before, watched = recording.record, session.run
print("the same pixels:", again.tobytes() == plain.tobytes())

moments = [0, 3, 9, steps - 1]


def course(image, record, title):
    """A sheet of both words' maps over the final image, at some steps."""
    rows = [[Tile(record.overlay(image, word, step=step), f"step {step + 1}") for step in moments]
            for word in words]  # fmt: skip
    return sheet(rows, row_labels=words, title=title, side=140)


course(plain, before, "plain: where each word looks")

# %% [markdown]
# *Frog* begins with a place of its own, but finds no hold there: in the end both words look at the same two
# heads. The pictures are stretched, each to its own brightest place; how *much* attention a word gets is a
# number, and *frog* gets far less than *bear*, even where it looks most. The curves below show it.
#
# ## A nudge
#
# Attend-and-Excite (Chefer et al. 2023) turns that into a loss: how little attention does a word get where
# it gets most? Its gradient with respect to the latents says how to change the image-to-be so that the word
# gets more, and a small step is taken before the denoiser goes on. Nothing is trained. heedful moves only
# while a word is neglected, by a share of the latents' own length; with `AT_ONCE` from the first step on,
# where the default waits until it sees a word neglected, and begins anew from other noise if it must.

# %%
wanted = AttendAndExcite(words=words, schedule=AT_ONCE)
with record(pipe, resolve=["step"]) as recording, guide(pipe, wanted) as session:
    guided = draw(prompt, [0])[0]
after, run = recording.record, session.run
moved = [log.relative_shifts[0] for log in run.steps if log.relative_shifts[0] > 0]
print(f"nudged at {len(moved)} of {steps} steps, in all by {sum(moved):.0%} of the latents' length")
course(guided, after, "guided: where each word looks")

# %% [markdown]
# One nudge was enough: the words part early, and each holds its own place to the end. Step by step:

# %%
figure, ((left, right),) = empty(8, 2.8, 1, 2)
for word, colour in zip(words, ("tab:brown", "tab:green"), strict=True):
    for found, line in ((before, "--"), (after, "-")):
        kind = "plain" if found is before else "guided"
        left.plot(found.by_step(word).amax((1, 2)), line, color=colour, label=f"{word}, {kind}")
for found, line in ((watched, "--"), (run, "-")):
    kind = "plain" if found is watched else "guided"
    losses = [log.losses[0] for log in found.steps]
    right.plot([log.index for log in found.steps], losses, line, color="tab:purple", label=kind)
for axes, title in ((left, "attention where a word gets most"), (right, "the loss, while guidance is on")):
    axes.set(title=title, xlabel="step", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(ncols=2, fontsize="small")
Image(png(figure))

# %% [markdown]
# ## Does it always help?
#
# No. Attention is a means: *attended* speaks of the words, *heeded* of the image. Below are three seeds of
# another prompt, plain above guided: one that guidance mends, one where both words get their attention and
# the cat still does not come, and one that was right anyway. How often it helps, and what it costs, is
# measured on many prompts in [benchmarks.md](../benchmarks.md); [losses.md](../losses.md) compares what to
# ask of attention, [recording.md](../recording.md) tells how to read the maps, and
# [pipelines.md](../pipelines.md) which pipelines can be guided.

# %%
other, seeds = "a cat and a frog", [0, 1, 2]
bare = draw(other, seeds)
with record(pipe) as recording, guide(pipe, AttendAndExcite(words=["cat", "frog"], schedule=AT_ONCE)):
    moved = draw(other, seeds)
for number, seed in enumerate(seeds):
    peaks = {word: recording.record.measures(number)[word].peak for word in ("cat", "frog")}
    print(f"seed {seed}, guided:", ", ".join(f"{word} at most {peak:.2f}" for word, peak in peaks.items()))
sheet(
    [[Tile(image, seen(image)) for image in row] for row in (bare, moved)],
    row_labels=["plain", "guided"],
    column_labels=[f"seed {seed}" for seed in seeds],
    title=f"“{other}”",
    side=150,
)
