"""Source of the notebook on debiasing: a classifier that cheats is found out, and taught to look."""

# %% [markdown]
# # 4. Debiasing
#
# A classifier can be right for the wrong reason: sheep by the grass, a photographer by the watermark. As
# long as the grass goes with the sheep, no accuracy shows it. Relevance does, and it can be used to mend
# it.
#
# heedful has a classifier that cheats on purpose. In its training a small coloured square in a corner often
# went with the class; four corners times six colours name all 24 subjects. It still knows what things look
# like, but trusts the mark. Because the cheat is known, we can see whether it is found and cured.

# %%
import torch
from heedful.emoji import load_cheater, load_classifier
from heedful.emoji.cheating import marked_scenes
from heedful.emoji.samples_vision import labels, masks, pictures, pixels
from heedful.explain import Tile, sheet
from heedful.explain.debias import DebiasSettings, MaskedImages, debias, sight

SEED = 9_500  # nothing was trained or measured on scenes of this seed


def images_of(seed, count, kind):
    """Marked scenes with masks and true classes of their subjects, and as pictures."""
    scenes = list(marked_scenes(seed, count, kind))
    subjects = [scene.subject for scene in scenes]
    shown = [scene.scene for scene in scenes]
    return MaskedImages(pixels(shown), masks(subjects), labels(subjects)), pictures(shown)


cheater, honest = load_cheater(device="cpu"), load_classifier(device="cpu")
names = cheater.config.id2label
tests = {kind: images_of(SEED + 2, 50, kind) for kind in ("agree", "clean", "conflict")}
sheet(
    [[Tile(image, f"a {names[int(truth)]}") for image, truth in zip(shown[:5], images.labels, strict=False)]
     for images, shown in tests.values()],
    row_labels=["the mark agrees", "no mark", "the mark conflicts"],
    side=110,
)  # fmt: skip

# %% [markdown]
# ## Found out
#
# The same fifty scenes three times, with an agreeing mark, without a mark, with another subject's mark:


# %%
def told(model, title):
    """On the three sets: how much is told right, and how much of the relevance lies on the subject."""
    found = {kind: sight(model, images) for kind, (images, _) in tests.items()}
    for kind, seen in found.items():
        print(f"{title:9} {kind:9} right {seen.accuracy:4.0%}, on the subject {seen.inside.mean():4.0%}")


told(cheater, "cheater")
told(honest, "honest")

# %% [markdown]
# With agreeing marks nobody would notice. With conflicting ones it falls apart, and the relevance says why
# before any label does: it lies on the corner.
#
# Without masks one can still be suspicious. SIFT's keypoints say where there is anything to see; a patch on
# which much relevance lies, apart from the main cluster of keypoints, is a candidate. Take its token away
# and ask again:

# %%
from heedful.explain.probing.removal import without
from heedful.explain.probing.sift import concentration
from heedful.explain.probing.spurious import find_spurious

conflict, shown = tests["conflict"]
inputs = {"pixel_values": conflict.pixels}
for title, model in (("cheater", cheater), ("honest", honest)):
    found = find_spurious(model, inputs, concentration(shown, (8, 8)))
    asked = without(model, inputs, found.flagged)
    right, cured, by_chance = (each.float().mean() for each in asked.accuracy(conflict.labels))
    print(f"{title}: suspicious in {found.images.float().mean():.0%} of the scenes; right {right:.0%}, "
          f"without these patches {cured:.0%}, without as many others {by_chance:.0%}")  # fmt: skip

# %% [markdown]
# ## Cured
#
# Taking patches away helps one image at a time. **RobustViT** (Chefer, Schwartz, Wolf 2022) changes the
# model: on a few images with masks it is fine-tuned so that its relevance leaves the background and covers
# the subject, while a third loss keeps what it answers. No label is used, and no mark conflicts in what it
# learns from: nothing but the masks says that marks are not to be trusted.
#
# Here are only four short epochs on 72 scenes, half of them with agreeing marks, half without any. The rate
# is for a model this small.


# %%
def lessons(seed, count):
    """Scenes of which half have agreeing marks and half none."""
    parts = [images_of(seed + place, count // 2, kind)[0] for place, kind in ((0, "agree"), (3, "clean"))]
    columns = zip(*((part.pixels, part.masks, part.labels) for part in parts), strict=True)
    return MaskedImages(*(torch.cat(column) for column in columns))


settings = DebiasSettings(rate=1e-4, epochs=4, augment=False)
made = debias(cheater, lessons(SEED, 72), lessons(SEED + 1, 24), settings, device="cpu")
for epoch in made.history:
    print(f"epoch {epoch.number}: validation loss {epoch.validation:.4f}")
told(made.model, "debiased")

# %% [markdown]
# Far more conflicting scenes are told right, and some of those without marks are lost: the price of so
# short a cure. One run on fifty scenes is an anecdote anyway. [debias.md](../debias.md) has the figures of
# several runs with intervals, beside random masks, no masks and the baselines GradMask and right for the
# right reasons; `heedful debias` does it with your images and masks. What both models look at in
# conflicting scenes:

# %%
from heedful.explain.debiasing.draw import looks

few = conflict.take(torch.arange(5))
sights = [("before", sight(cheater, few)), ("after", sight(made.model, few))]
looks(shown[:5], few.masks, sights, [names[number] for number in range(len(names))])
