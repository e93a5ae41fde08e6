"""Source of the notebook on probing: how far heads look, what layers share, what features answer to."""

# %% [markdown]
# # 2. Probing a vision transformer
#
# The [first notebook](1-interpretability.ipynb) asked what one answer rests on. Probing asks what the
# *layers* do, whatever the answer: how far they look, what they hold, and how that differs from a
# convolutional network that learned the same task.
#
# The models are heedful's embedded judge (a ViT of 6 layers) and ResNet. Both were trained on the same
# scenes with the same labels, so that what differs is the architecture.

# %%
from heedful.emoji import load_judge, load_resnet
from heedful.emoji.samples_vision import pictures, pixels, two_subjects
from heedful.explain import Tile, sheet
from IPython.display import Image

vit, resnet = load_judge(device="cpu").model, load_resnet(device="cpu")
scenes = two_subjects(range(64))
images, seen = pictures(scenes), pixels(scenes)
sheet([[Tile(image, scene.caption) for image, scene in zip(images[:6], scenes, strict=False)]], side=110)

# %% [markdown]
# ## How far does a head look?
#
# A convolution sees its neighbours only; attention may look anywhere. **Attention distance** (Dosovitskiy
# et al. 2021, Raghu et al. 2021) says what it does with that freedom: the mean distance in pixels between
# the patch that looks and what it looks at, weighed by attention. `[CLS]` lies nowhere, so it is taken out
# and each row divided by what is left; else a layer that looks at `[CLS]` would seem local.
#
# A control belongs to every probe: the same architecture with random weights.

# %%
from heedful.explain.probing import draw_attention, plots
from heedful.explain.probing.head_statistics import head_statistics
from heedful.explain.probing.similarity import twin

found = head_statistics(vit, {"pixel_values": seen})
control = head_statistics(twin(vit), {"pixel_values": seen})
for layer, row in enumerate(found.reach):
    print(
        f"layer {layer}: reach of the heads",
        "  ".join(f"{value:.2f}" for value in row),
        "(1: even attention)",
    )
Image(plots.png(draw_attention.statistics({"judge": found}, {"judge": control})))

# %% [markdown]
# Each dot is a head; gray is the random twin, the dashed line even attention. No head of this small model
# is local in the strict sense, less than half of even attention's reach. What training changed is the
# entropy: heads choose. Where they choose, one sees head by head, from the patch in the green frame:

# %%
from heedful.explain.probing.heads import head_maps

box = scenes[0].subjects[0].box
patch = (box[1] + box[3]) // 16, (box[0] + box[2]) // 16
draw_attention.head_sheet(head_maps(vit, {"pixel_values": seen[:1]}, patch), images[0], side=90)

# %% [markdown]
# ## What do layers of two models share?
#
# Two layers have different channels, so their numbers cannot be compared one by one. **CKA** compares what
# they make of the *same images*: are images that are alike for the one alike for the other? It is 1 for
# equal geometry, whatever the rotation and scale, and near 0 where nothing is shared. The unbiased estimate
# over minibatches is used; the simpler one comes out high for any two wide layers.

# %%
from heedful.explain.probing import draw_similarity
from heedful.explain.probing.similarity import minibatches, similarity

batches = [seen[part] for part in minibatches(images, 8)]
shared = similarity(vit, resnet, batches)
random = similarity(twin(vit), twin(resnet), batches)
for name, nearest, cka in shared.nearest():
    print(f"{name:16} is most like {nearest:34} {cka:.2f}")
Image(plots.png(draw_similarity.heatmaps({"trained": shared, "random weights": random})))

# %% [markdown]
# In the middle both come to see much the same, and the ViT gets there sooner: the middle of the one is like
# the beginning of the other. Beware of high numbers, though. Before anything is learnt, both already share
# what the images themselves have in common.
#
# ## What does a feature answer to?
#
# Each hidden channel of a feed-forward layer is a detector of something. **Feature visualisation** (Ghiasi
# et al. 2022) makes the image that it answers to most, from noise, by gradients. Moves, colour shifts and
# noise on the way keep the gradient from finding tricks of single pixels. Few steps and few channels will
# do here; the published recipe is much longer.

# %%
from heedful.explain.probing.draw_features import feature_sheet
from heedful.explain.probing.features import Recipe, visualise
from heedful.explain.probing.units import Feature, patch_activations

features = [Feature(layer, channel) for layer in (1, 3, 5) for channel in (20, 40, 60, 80)]
made = visualise(vit, features, recipe=Recipe(steps=40, copies=2, colour=0.3, noise=0.3))
best = patch_activations(vit, seen, features).mean((2, 3)).amax(0)
for feature, strength, real in zip(features, made.strengths, best, strict=True):
    print(f"{feature!s:30} {strength:6.2f} for its image, at most {real:6.2f} for 64 scenes")
feature_sheet(made, side=110)

# %% [markdown]
# Most are raised far beyond what any of the scenes does to them; in so few steps some never come to life.
#
# ## Where is there anything to see?
#
# SIFT finds keypoints without any learning: corners and blobs that one would find again from elsewhere.
# Patches with many keypoints are a rough map of where there is something to see, and so a yardstick from
# outside for what attention looks at. Is it drawn to keypoints more than chance would have it? Chance is
# the same map, shifted.

# %%
from heedful.explain.probing.draw_sift import keypoint_sheet
from heedful.explain.probing.sift import concentration
from heedful.explain.probing.sift_attention import sift_attention

keypoints = concentration(images[:16], (8, 8))
drawn = sift_attention(vit, {"pixel_values": seen[:16]}, keypoints, draws=100)
ratio, (_, _, adjusted) = drawn.ratio("from [CLS]"), drawn.tested("from [CLS]")
for layer, row in enumerate(ratio):
    told = [f"{value:.1f}{'*' if p < 0.05 else ' '}" for value, p in zip(row, adjusted[layer], strict=True)]
    print(f"layer {layer}: attention of [CLS] to keypoints, times chance:", "  ".join(told))
print("* other than chance, p < .05, adjusted for looking at all heads")

# %% [markdown]
# Each of these is one command: `heedful probe attention-distance`, `similarity`, `features`, `sift`. Their
# pages have the figures of many scenes, with intervals and controls:
# [attention-distance.md](../attention-distance.md), [similarity.md](../similarity.md),
# [feature-visualisation.md](../feature-visualisation.md), [sift.md](../sift.md). The last picture shows the
# yardstick itself.

# %%
keypoint_sheet(images[:3], concentration(images[:3], (8, 8)))
