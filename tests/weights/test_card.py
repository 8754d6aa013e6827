from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.config import Preprocessing
from vitrail.models.config import ViTConfig
from vitrail.weights.bundle import BundleConfig
from vitrail.weights.card import model_card

huggingface_hub = pytest.importorskip("huggingface_hub")

SOURCE = "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k@0123abc"
MODEL = ViTConfig(image_size=(8, 8), patch_size=4, width=8, depth=1, num_heads=2, mlp_size=16, num_classes=2)
CONFIG = BundleConfig(
    model=MODEL,
    labels=("cat", "dog"),
    preprocessing=Preprocessing(image_size=(8, 8)),
    name="pets",
    licence="apache-2.0",
    provenance={
        "data": "pets",
        "starting_weights": {"weights": SOURCE, "family": "timm", "licence": "apache-2.0", "files": {"a": "b"}},
    },
    metrics={"test_accuracy": 0.91304, "test_balanced_accuracy": 0.9, "validation_accuracy": 0.95, "floor": "ridge"},
)


def _card(config: BundleConfig) -> tuple[dict[str, Any], str]:
    """The metadata and the text, as the hub's own library reads them."""
    card = huggingface_hub.ModelCard(model_card(config))
    return card.data.to_dict(), card.text


def test_the_hub_reads_the_header() -> None:
    data, text = _card(CONFIG)
    assert data["library_name"] == "vitrail"
    assert data["pipeline_tag"] == "image-classification"
    assert data["license"] == "apache-2.0"
    assert data["base_model"] == "timm/vit_tiny_patch16_224.augreg_in21k"
    assert data["base_model_relation"] == "finetune"
    assert {"vision", "vit"} <= set(data["tags"])
    assert text.lstrip().startswith("# pets")


def test_the_hub_reads_the_figures() -> None:
    results = huggingface_hub.ModelCard(model_card(CONFIG)).data.eval_results
    found = {(one.dataset_split, one.metric_type): one.metric_value for one in results}
    assert found == {
        ("test", "accuracy"): 0.91304,
        ("test", "balanced_accuracy"): 0.9,
        ("validation", "accuracy"): 0.95,
    }
    assert {one.dataset_name for one in results} == {"pets"}


def test_figures_that_are_none_are_left_out() -> None:
    data, _ = _card(replace(CONFIG, metrics={"test_accuracy": float("nan"), "validation_accuracy": None}))
    assert "model-index" not in data


def test_it_names_the_weights_it_began_from_and_their_licence() -> None:
    _, text = _card(CONFIG)
    assert f"It was trained further from the weights `{SOURCE}` (family timm, licence apache-2.0)" in text
    licence = text.split("## Licence")[1]
    assert "under `apache-2.0`" in licence
    assert "no licence of their own" not in licence


def test_a_converted_model_says_that_it_was_not_trained_here() -> None:
    config = replace(CONFIG, provenance={"origin": {"weights": SOURCE, "family": "timm"}})
    data, text = _card(config)
    assert "converted, not trained here" in text
    assert data["base_model"] == "timm/vit_tiny_patch16_224.augreg_in21k"
    assert "base_model_relation" not in data


@pytest.mark.parametrize("weights", ["/home/me/vit.pth", "https://example.com/vit.npz", "hf-hub:", "hf-hub:a b/c"])
def test_weights_from_elsewhere_are_no_base_model_of_the_hub(weights: str) -> None:
    data, text = _card(replace(CONFIG, provenance={"origin": {"weights": weights}}))
    assert "base_model" not in data
    assert weights in text


def test_a_licence_that_the_hub_does_not_know_is_named() -> None:
    data, text = _card(replace(CONFIG, licence="dinov3-license"))
    assert (data["license"], data["license_name"]) == ("other", "dinov3-license")
    assert "`dinov3-license`" in text


def test_weights_without_a_licence_claim_none() -> None:
    data, text = _card(replace(CONFIG, licence=None))
    assert "license" not in data
    assert "no licence of their own" in text


def test_features_without_a_head_are_called_features() -> None:
    data, text = _card(replace(CONFIG, model=replace(MODEL, num_classes=0), labels=(), metrics={}))
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert "0 classes" not in text
    assert "What it knows" not in text
    assert "vitrail predict THIS_FOLDER" not in text
    assert "it has no head" in text


HOSTILE = st.text(max_size=30) | st.sampled_from(
    [
        "---",
        "a\n---\nlicense: mit",
        '"',
        "'",
        "\\",
        "{{x}}",
        "&a *b",
        "!!python/object:os",
        "yes",
        "1.0",
        "\u2028",
        "\ud800",
    ]
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(name=HOSTILE, label=HOSTILE, data=HOSTILE, licence=HOSTILE, weights=HOSTILE)
def test_no_text_breaks_the_header(name: str, label: str, data: str, licence: str, weights: str) -> None:
    config = replace(
        CONFIG,
        name=name,
        labels=(label, label + "2"),
        licence=licence,
        provenance={"data": data, "starting_weights": {"weights": weights, "licence": licence}},
    )
    # As it is written to the file.
    written = model_card(config).encode("utf-8", "backslashreplace").decode()
    card = huggingface_hub.ModelCard(written)
    assert card.data.to_dict()["library_name"] == "vitrail"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license in {"other", licence.lower()}
    assert {result.metric_type for result in card.data.eval_results} == {"accuracy", "balanced_accuracy"}
