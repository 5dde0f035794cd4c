"""Texts as prompts: the published cleaning against its slow twin, the mended one, tokens and the plan of words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_carzero import process
from tiny_carzero import SETTINGS, WORDS, text_folder
from wordsight.errors import PromptError, SettingsError, WeightsError
from wordsight.models.carzero.settings import VARIANTS, BertShape, CarZeroSettings, VitShape, variant
from wordsight.models.carzero.text_input import TextInput, clean, find_text_folder, plan_words

MENDED = SETTINGS.corrected()
TEXT = st.text(alphabet="ab1290. \n_-é\ufffdX:[", max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("text"))


@settings(deadline=None, max_examples=200)
@given(TEXT)
def test_published_cleaning_is_the_twins(text: str) -> None:
    assert " ".join(clean(text, SETTINGS).split()) == process(text)


@pytest.mark.parametrize(
    ("text", "published", "mended"),
    [
        ("Cardiomegaly", "", "cardiomegaly"),
        ("a 3.5 cm nodule", "5 cm nodule", "a 3.5 cm nodule"),
        ("A nodule of .5 cm", "a nodule of 5 cm", "a nodule of .5 cm"),
        ("measures 10. Stable heart.", "stable heart", "measures 10 stable heart"),
        ("1. Stable heart.\n2. No edema", "stable heart no edema", "stable heart no edema"),
        ("Findings: 1. Clear lungs", "clear lungs", "findings clear lungs"),
        ("na\u00efve caf\u00e9", "nave caf", "naive cafe"),
        ("end of effusion.2 cm mass", "end of effusion 2 cm mass", "end of effusion 2 cm mass"),
        ("left\ufffd\ufffdlung", "left lung", "left lung"),
        ("... 1. 2. \u00e9 \u00e8", "", "e e"),
        ("", "", ""),
    ],
)
def test_both_cleanings(text: str, published: str, mended: str) -> None:
    assert clean(text, SETTINGS).strip() == published
    assert clean(text, MENDED) == mended


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["no", "edema", "heart", "3.5", "10", "cm"]), min_size=1, max_size=8))
def test_mended_cleaning_keeps_every_word_and_number(words: list[str]) -> None:
    line = "x " + " ".join(words) + " x"
    assert clean(line, MENDED) == line
    assert clean(clean(line, MENDED), MENDED) == line


def test_tokens_and_their_words(folder: Path) -> None:
    tokens = TextInput(folder, SETTINGS)(["No pneumothorax, opacities", "mass"])
    pieces = [WORDS[i] for i in tokens.ids[0] if i]
    assert pieces == ["[CLS]", "no", "pneumo", "##thorax", "opac", "##ities", "[SEP]"]
    length = SETTINGS.text_length
    assert tokens.word[0].tolist() == [0, 1, 2, 2, 3, 3, 4] + [length] * (length - 7)
    assert tokens.words.tolist() == [5, 2]  # a prompt of one word vanishes as published
    assert tokens.mask.sum(1).tolist() == [7, 2]
    assert tokens.length == length
    assert torch.equal(tokens[1:].ids, tokens.ids[1:])
    assert TextInput(folder, MENDED)(["mass"]).words.tolist() == [3]


def test_long_texts_are_cut_and_keep_their_end(folder: Path) -> None:
    tokens = TextInput(folder, SETTINGS).tokenize(["pneumothorax " * 40])
    assert tokens.ids[0, -1] == WORDS.index("[SEP]")
    assert bool(tokens.mask.all())
    assert tokens.words.tolist() == [2 + SETTINGS.text_length // 2 - 1]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_the_plan_is_that_of_a_walk(row: list[int]) -> None:
    """Ids 7..9 continue a word, 3 is [SEP]."""
    ids = torch.tensor([[2, *row]])
    continues = torch.arange(10) >= 7
    plan = plan_words(ids, torch.ones_like(ids), continues, 3)
    words, wanted = 0, []
    ended = False
    for i in [2, *row]:
        if ended:
            wanted.append(ids.shape[1])
            continue
        words += int(not continues[i])
        wanted.append(words - 1)
        ended = i == 3
    assert plan.word[0].tolist() == wanted
    assert plan.words.tolist() == [words]


def test_a_missing_tokenizer_says_what_to_put_where(tmp_path: Path) -> None:
    for source in (tmp_path, "nobody/no-such-bert"):
        with pytest.raises(
            WeightsError, match=r"expected a folder with a BERT tokenizer \(vocab.txt or tokenizer.json"
        ):
            find_text_folder(source)
    with pytest.raises(WeightsError, match="run `hf download nobody/no-such-bert --local-dir FOLDER`"):
        find_text_folder("nobody/no-such-bert")


def test_other_tokenizers_are_refused(tmp_path: Path, folder: Path) -> None:
    small = replace(SETTINGS, text=replace(SETTINGS.text, vocabulary=20))
    with pytest.raises(WeightsError, match=rf"expected a tokenizer of at most 20 ids, .*, got {len(WORDS)}\."):
        TextInput(folder, small)
    (tmp_path / "vocab.txt").write_text("\xff\n", encoding="latin-1")
    with pytest.raises(WeightsError, match="expected a tokenizer in Hugging Face's layout"):
        TextInput(tmp_path, SETTINGS)
    from tokenizers import Tokenizer, models

    bare = tmp_path / "bare"
    bare.mkdir()
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(bare / "tokenizer.json"))
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(WeightsError, match=r"expected a BERT tokenizer with \[CLS\], \[SEP\] and \[PAD\], got"):
        TextInput(bare, SETTINGS)


def test_no_text_is_refused(folder: Path) -> None:
    with pytest.raises(PromptError, match="expected at least one text, got none"):
        TextInput(folder, SETTINGS)([])


# -- settings ---------------------------------------------------------------------------------------------------------


def test_published_settings_are_the_papers() -> None:
    settings = CarZeroSettings.published()
    assert (settings.width, settings.grid, settings.image_size, settings.text_length) == (768, 14, 224, 97)
    assert settings.vit == VitShape()
    assert CarZeroSettings(image_encoder="resnet50").vit is None
    assert CarZeroSettings(image_encoder="resnet50").grid == 14
    assert (settings.head, settings.memory) == ("mlp", "global+local")
    assert {name: (variant(name).memory, variant(name).head) for name in VARIANTS} == dict(VARIANTS)
    with pytest.raises(SettingsError, match="variant: expected one of global, local, gl, mlp_gl, got 'xl'"):
        variant("xl")


def test_settings_survive_json() -> None:
    import json

    for kept in (SETTINGS, CarZeroSettings().corrected(), CarZeroSettings(image_encoder="resnet50", head="linear")):
        assert CarZeroSettings.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    with pytest.raises(SettingsError, match=r"expected settings of CARZero as to_json writes them, got .*'depth'"):
        CarZeroSettings.from_json({"depth": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_encoder": "vgg"}, "image_encoder: expected 'vit_b16', 'resnet50' or a VitShape, got 'vgg'"),
        ({"image_encoder": VitShape(width=64, heads=4)}, "expected image and text encoders of equal width, got 64 and"),
        ({"head": "deep"}, "head: expected 'linear' or 'mlp', got 'deep'"),
        ({"memory": "all"}, "memory: expected 'global' or 'local' or 'global\\+local', got 'all'"),
        ({"word_lengths": "bytes"}, "word_lengths: expected 'characters' or 'words', got 'bytes'"),
        ({"fusion_layers": 0, "mlp_sizes": ()}, r"expected positive sizes, got fusion_layers=0, mlp_sizes=\(\)"),
        ({"text_length": 31}, "text_length: expected 2..30, the positions of the BERT, got 31"),
        ({"last_states": 6}, "last_states: expected at most 5 hidden states, got 6"),
        ({"dropout": 1.0}, r"dropout: expected a share in \[0, 1\), got 1.0"),
        ({"fusion_heads": 5}, "fusion_heads: expected a divisor of 32, got 5"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]


def test_shapes_out_of_range() -> None:
    with pytest.raises(SettingsError, match=r"image.layers: expected an integer in 1..256, got 0"):
        VitShape(layers=0)
    with pytest.raises(SettingsError, match=r"image.heads: expected a divisor of the width 768, got 7"):
        VitShape(heads=7)
    with pytest.raises(SettingsError, match=r"image.image_size: expected a multiple of the patch size 16, got 225"):
        VitShape(image_size=225)
    with pytest.raises(SettingsError, match=r"text.vocabulary: expected an integer in 1..2000000, got '9'"):
        BertShape(vocabulary="9")  # type: ignore[arg-type]


def test_bert_sizes_come_from_its_configuration() -> None:
    config = {"model_type": "bert", "vocab_size": 28996, "hidden_size": 384, "num_attention_heads": 6, "extra": 1}
    assert BertShape.from_config(config) == BertShape(vocabulary=28996, width=384, heads=6)
    for key, value in (("model_type", "roberta"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")):
        with pytest.raises(SettingsError, match=f"expected a BERT configuration with GELU .*'{value}'"):
            BertShape.from_config({key: value})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1. There is edema 2. There is mass", "there is edema there is mass"),
        ("1) There is edema 2) There is mass", "there is edema there is mass"),
        ("There is edema:\n1. mass of 3.5 cm\n2. nodule", "there is edema mass of 3.5 cm nodule"),
        ("The mass measures 10. It is stable", "the mass measures 10 it is stable"),
        ("There are 2 masses", "there are 2 masses"),
        ("Rib 4. There is a fracture", "rib 4 there is a fracture"),
        ("There is edema. 4. There is mass", "there is edema there is mass"),
    ],
)
def test_enumeration_marks_vanish_where_numbers_are_kept(text: str, wanted: str) -> None:
    assert clean(text, SETTINGS.corrected()) == wanted


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import hub

    fetched: list[str] = []
    there = text_folder(tmp_path / "fetched")

    def cached(repository: str, name: str, *, local_files_only: bool = False) -> str:
        if local_files_only:
            raise OSError("not in the cache")
        fetched.append(name)
        if repository.startswith("no/") or not (there / name).is_file():
            raise OSError("no network\nand more")
        return str(there / name)

    monkeypatch.setattr(hub, "cached_file", cached)
    name = "nobody-xyz/not-in-any-cache"
    with pytest.raises(WeightsError, match=r"Nothing is downloaded unless asked for \(--text-download"):
        find_text_folder(name)
    with pytest.raises(WeightsError, match="found neither"):
        find_text_folder(tmp_path / "absent", download=True)
    assert find_text_folder(there, download=True) == there
    assert fetched == []
    assert find_text_folder(name, download=True) == there
    assert {"config.json", "vocab.txt"} <= set(fetched)
    assert not [file for file in fetched if "model" in file]
    with pytest.raises(WeightsError, match=r"text 'no/net-xyz': expected a repository .* none \(no network\)"):
        find_text_folder("no/net-xyz", download=True)
