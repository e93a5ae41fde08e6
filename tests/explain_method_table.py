"""The table method x family of docs/methods.md, made of what methods and adapters say of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from explain_reference_families import HANDS
from explain_tiny import tiny
from heedful.explain import METHODS
from heedful.explain.methods import settings_of
from heedful.explain.models import Family, family_of

CHEFER = "Chefer, Gur, Wolf, ICCV 2021"
LRP = (
    "the reference's own attention under `heedful.explain.lrp`, whose rules are held against numpy by "
    "`test_lrp.py`; then as for generic"
)
RULES = "loops over float64 maps and gradients, layers in the order of each model's forward"
ABOUT: Mapping[str, tuple[str, str, str]] = {
    "generic": (
        "attention ⊙ its gradient, positive part, mean over heads, gathered over all layers by the rules for "
        "self-attention, co-attention and encoder-decoder attention",
        f"{CHEFER}, Eq. 5 to 11",
        RULES,
    ),
    "libra": (
        "the same with Libra gradients: softmax, gates and norms count as constants",
        "Mehri et al., LibraGrad, CVPR 2025",
        "attentions that are leaves, hooks on norms and activations; then as for generic",
    ),
    "attribution": (
        "LRP relevance of the attention ⊙ its gradient, gathered over the layers of the stream that is read; "
        "each context by its last cross-attention",
        "Chefer, Gur, Wolf, CVPR 2021",
        LRP,
    ),
    "partial_lrp": (
        "LRP relevance of one layer's attention, positive part, mean over heads",
        "Voita et al., ACL 2019, as in Chefer, Gur, Wolf, CVPR 2021",
        LRP,
    ),
    "legrad": (
        "gradient of each layer's own score by its attention, positive part, mean over layers, heads and "
        "queries",
        "Bousselham et al., ICCV 2025",
        "heads written by hand on every layer's tokens",
    ),
    "grad_cam": (
        "one layer's attention, its heads weighted by their mean gradient",
        f"Selvaraju et al., ICCV 2017; on attention in {CHEFER}",
        RULES,
    ),
    "gradient_rollout": (
        "product over layers of ½ (I + attention ⊙ gradient); `normalise=True`: rows divided by their sums",
        "Abnar & Zuidema, ACL 2020, with gradients; normalised as in the code of vit-explain",
        RULES,
    ),
    "rollout": (
        "product over layers of ½ (I + attention)",
        f"Abnar & Zuidema, ACL 2020; between two streams as in {CHEFER}",
        RULES,
    ),
    "raw_attention": ("one layer's attention, as it is", "none", RULES),
    "flow": (
        "maximum flow through all attentions, with capacities ½ I + ½ attention",
        "Abnar & Zuidema, ACL 2020; Metzger et al. 2022",
        "networkx, three tokens of every stream",
    ),
    "gradient_flow": (
        "the same with capacities ½ I + ½ (attention ⊙ gradient)⁺",
        "class-specific form of the former",
        "networkx, three tokens of every stream",
    ),
    "gradient_x_input": (
        "token ⊙ gradient where tokens enter the first layer, summed over channels",
        "Shrikumar et al. 2016",
        "tokens that are leaves",
    ),
    "libra_gradient_x_input": (
        "the same with Libra gradients",
        "Mehri et al., LibraGrad, CVPR 2025",
        "tokens and attentions that are leaves, hooks on norms and activations",
    ),
    "saliency": (
        "magnitude of the gradient by pixels, or by the channels of a token; computed by captum",
        "Simonyan et al. 2014",
        "one backward in float64",
    ),
    "smoothgrad": (
        "the mean of it over noisy inputs; computed by captum",
        "Smilkov et al. 2017",
        "without noise it is saliency; the same seed gives the same map, another seed another",
    ),
    "integrated_gradients": (
        "gradients along the way from nothing to the input; computed by captum",
        "Sundararajan et al., ICML 2017",
        "a loop over Gauss-Legendre points",
    ),
    "occlusion": (
        "by how much the score falls without a patch, or a token; computed by captum",
        "Zeiler & Fergus, ECCV 2014",
        "a loop over patches and tokens",
    ),
}
"""What each method computes, its source, and what it is checked against."""


def shown_families() -> dict[str, Family]:
    """By name, those that the matrix is made of."""
    found = [family_of(tiny(name)[0]) for name in HANDS]
    return {family.name: family for family in found}


def rendered() -> str:
    """The whole page."""
    families = shown_families()
    reasons = list(dict.fromkeys(reason for each in families.values() for reason in each.refuses.values()))
    lines = [*_methods(), *_matrix(families, reasons), *_notes(families, reasons)]
    return "\n".join(lines) + "\n"


def _methods() -> list[str]:
    lines = [
        "# Methods",
        "",
        "`explain(model, inputs, target, method, **settings)` takes each of these. The page is written by",
        "`tests/explain/test_matrix.py`: where it says yes, the cell has been compared with a reference.",
        "",
        "| method | what it computes | source | settings |",
        "|---|---|---|---|",
    ]
    for method in METHODS:
        what, source, _ = ABOUT[method]
        given = ", ".join(f"`{name}={value!r}`" for name, value in settings_of(method).items()) or "none"
        lines.append(f"| `{method}` | {what} | {source} | {given} |")
    return lines


def _matrix(families: Mapping[str, Family], reasons: list[str]) -> list[str]:
    lines = [
        "",
        "## Which method on which family",
        "",
        f"| method | {' | '.join(families)} |",
        "|---|" + ":-:|" * len(families),
    ]
    for method in METHODS:
        marks = [
            f"no [{reasons.index(each.refuses[method]) + 1}]" if method in each.refuses else "yes"
            for each in families.values()
        ]
        lines.append(f"| `{method}` | {' | '.join(marks)} |")
    return lines


def _notes(families: Mapping[str, Family], reasons: list[str]) -> list[str]:
    lines = ["", "A method that is refused raises `UnsupportedMethodError` with the reason:", ""]
    lines += [f"{number}. {reason}." for number, reason in enumerate(reasons, 1)]
    lines += ["", "Model classes:", ""]
    lines += [
        f"- {name}: {', '.join(f'`{kind}`' for kind in each.classes)}" for name, each in families.items()
    ]
    lines += [
        "",
        "## What the cells are checked against",
        "",
        "A random tiny model of every class, two inputs of unequal sizes. The reference knows nothing of the",
        "capture and of the adapters: attention comes from a function of its own in transformers' attention",
        "interface, or from hooks behind the softmax where a model has none; order of layers, tokens that",
        "are read, patches, words and scores are written out by hand. It is computed in float64; every map",
        "of `explain` lies within 1e-5 of its largest value. LRP divides by sums that may all but cancel, so",
        "`attribution` and `partial_lrp` are compared on a float64 model, all others on a float32 one.",
        "",
        "| method | reference |",
        "|---|---|",
    ]
    return lines + [f"| `{method}` | {ABOUT[method][2]} |" for method in METHODS]
