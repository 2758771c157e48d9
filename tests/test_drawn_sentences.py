import re

import numpy as np
import pytest

from stableavatar.drawn.sentences import GRAMMARS, HELD_OUT, LANGUAGES, SPLITS, TRAIN, Grammar, draw_sentence

FUNCTION_WORDS = {"dans", "cette", "encore", "muss"}


def content_words(grammar: Grammar) -> set[str]:
    """Words of four letters and more, in small letters; slots are none."""
    texts = [re.sub(r"\{\w+\}", " ", template) for template in grammar.templates]
    texts += [word for words in grammar.words.values() for word in words]
    return set(re.findall(r"[^\W\d_]{4,}", " ".join(texts).lower()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_splits_share_neither_template_nor_content_word(language: str) -> None:
    train, held_out = GRAMMARS[language][TRAIN], GRAMMARS[language][HELD_OUT]
    assert not set(train.templates) & set(held_out.templates)
    assert not content_words(train) & content_words(held_out)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_splits_share_no_sentence(language: str) -> None:
    rng = np.random.default_rng(0)
    said = [{draw_sentence(rng, language, split) for _ in range(300)} for split in SPLITS]
    assert not said[0] & said[1]
    assert min(map(len, said)) > 100, "there are many"
    assert not any("{" in text for text in said[0] | said[1])


def test_a_seed_gives_its_sentence() -> None:
    first, again, other = (draw_sentence(np.random.default_rng(seed), "de", TRAIN) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("split", SPLITS)
def test_lips_close_often(split: str) -> None:
    rng = np.random.default_rng(0)
    texts = [draw_sentence(rng, language, split).lower() for language in LANGUAGES for _ in range(50)]
    assert np.mean([len(re.findall("[pbm]", text)) for text in texts]) > 3
