"""Source of the notebook on interpretability: from raw attention to relevance, on one model and one image."""

# %% [markdown]
# # 1. Interpretability, then and now
#
# A vision transformer cuts an image into patches and lets them exchange what they know, layer by layer. One
# more token, `[CLS]`, collects what the answer is read from. This notebook asks the oldest question about
# such a model: *which patches does the answer rest on?* It goes through the answers in the order in which
# they were found.
#
# The model is heedful's embedded judge, a small ViT (6 layers, 4 heads, 8 x 8 patches) that says which
# things of an emoji world an image shows. In that world the truth is known, so every map can be held
# against it. Everything here runs offline on a CPU; with a model of your own the calls are the same.

# %%
from heedful.emoji import load_judge
from heedful.emoji.samples_vision import asked_for, masks, pictures, pixels, two_subjects
from heedful.explain import Tile, explain, sheet

judge = load_judge(device="cpu")
model = judge.model
scene = two_subjects([0])[0]
image, inputs = pictures([scene])[0], {"pixel_values": pixels([scene])}
names = [subject.name for subject in scene.subjects]
seen = judge([image])[0]
sheet([[Tile(image, ", ".join(f"{name}: {seen.scores[name]:.0%}" for name in names))]], side=200)

# %% [markdown]
# The judge sees both, and it is right. What did it look at?
#
# ## Raw attention
#
# The first idea is to look at what is there already. In each head, `[CLS]` spreads an attention of 1 over
# all tokens; what falls on the patches is a map. Here are the four heads of the last layer, and their mean.

# %%
heads = [explain(model, inputs, names[0], "raw_attention", head=head) for head in range(4)]
mean = explain(model, inputs, names[0], "raw_attention")
sheet(
    [[Tile(each.overlay(image), f"head {number}") for number, each in enumerate(heads)]
     + [Tile(mean.overlay(image), "mean of the heads")]],
    side=150,
)  # fmt: skip

# %% [markdown]
# Heads disagree, and two things are missing. One layer is not the model: by the last layer each token has
# already mixed with others, so attention to a *token* is no longer attention to its *patch*. And nothing in
# these maps depends on the question. Whether we ask for the one thing or the other, the picture is the
# same.
#
# ## Rollout and flow
#
# Abnar and Zuidema (2020) repaired the first. Every layer passes a token on and adds what it attended to,
# so a layer mixes by ½(I + A), and all layers together by the product of these matrices: **rollout**. Or
# take the layers as a network of pipes, each as wide as an attention, and ask how much can flow from
# `[CLS]` down to a patch: **attention flow**. heedful computes it exactly, which was thought too slow for
# images.

# %%
earlier = {method: explain(model, inputs, names, method) for method in ("raw_attention", "rollout", "flow")}
sheet(
    [[Tile(found.overlay(image, row), method) for method, found in earlier.items()] for row in range(2)],
    row_labels=[f"asked for: {name}" for name in names],
    side=150,
)

# %% [markdown]
# Both rows are alike: mixing knows nothing of the question either. That is the second thing that was
# missing. And the flow is nearly even, brighter in the background than on the dog: from `[CLS]` some path
# leads everywhere.
#
# ## Gradients: which attention matters for this answer?
#
# Attention says what is mixed. Its gradient says whether more of it would raise the score we ask about.
# Their product, with what would lower the score set to 0, keeps the attention that speaks *for* the answer:
#
# - **gradient rollout** puts that product into the matrices of rollout;
# - **transformer attribution** (Chefer et al., CVPR 2021) takes layer-wise relevance in the place of
#   attention;
# - the **generic rule** (Chefer et al., ICCV 2021) needs attention and gradient alone, R ← R + (A ⊙ ∇A)⁺ R,
#   and so covers co-attention and encoder-decoders, too; in a model with one stream, as here, it is
#   gradient rollout but for a factor;
# - **Libra**, heedful's default, is the generic rule with gradients that treat softmax, gates and norms as
#   constants.

# %%
methods = ("gradient_rollout", "attribution", "generic", "libra")
later = {method: explain(model, inputs, names, method) for method in methods}
sheet(
    [[Tile(found.overlay(image, row), method) for method, found in later.items()] for row in range(2)],
    row_labels=[f"asked for: {name}" for name in names],
    side=150,
)

# %% [markdown]
# Now the rows differ. But a map that looks right is no proof: we see what we expect to see. The emoji world
# knows where everything is, so we can count. In a few scenes of two things we ask for each of them: how
# much of a map lies on the thing that was asked for, and how much on the other?

# %%
items = range(8)
scenes = two_subjects(items)
batch = {"pixel_values": pixels(scenes)}
both = asked_for(scenes, items), asked_for(scenes, items, other=True)


def share(found, subjects):
    """Of each map, the share that lies within its subject."""
    maps = found.upsample((64, 64), "nearest")
    return (maps * masks(subjects)).sum((1, 2)) / maps.sum((1, 2))


print(f"{'':18}{'asked for':>12}{'the other':>12}")
shares = {}
for method in (*earlier, *later):
    on, off = [], []
    for asked, other in (both, both[::-1]):
        found = explain(model, batch, [subject.name for subject in asked], method)
        on.append(share(found, asked).mean())
        off.append(share(found, other).mean())
    shares[method] = float(sum(on) / 2), float(sum(off) / 2)
    print(f"{method:18}{shares[method][0]:>12.0%}{shares[method][1]:>12.0%}")
area = float(sum(masks(subjects).float().mean() for subjects in both) / 2)
print(f"{'a map of one grey':18}{area:>12.0%}{area:>12.0%}")

# %% [markdown]
# Maps of attention alone hold the same on both: they cannot know which one is meant. Flow is not even
# better than grey. The gradient makes the difference. Eight scenes make no study, though, and lying on the
# thing is only one test: [evidence.md](../evidence.md) compares all seventeen methods by many tests, with
# intervals and with controls that know nothing of the model. [explain.md](../explain.md) tells how to call
# them, and [attention-flow.md](../attention-flow.md) what flow can and cannot show.
#
# All methods on one sheet, each with the share of its map on the thing that was asked for:

# %%
rows, everything = [], {**earlier, **later}
for row in range(len(names)):
    inside = {method: float(share(found, scene.subjects)[row]) for method, found in everything.items()}
    rows.append([Tile(f.overlay(image, row), f"{m} {inside[m]:.0%}") for m, f in everything.items()])
sheet(rows, row_labels=names, title="Which patches speak for it, from 2020 to now", side=130)
