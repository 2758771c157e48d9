import pytest

from stableavatar.correction.words import Sentence, parse_segments


def test_sentences_come_in_the_order_of_the_video() -> None:
    text = '[{"start_s": 5, "end_s": 6.5, "audio": "b.wav"}, {"start_s": 1, "end_s": 5, "audio": "a, [=].wav"}]'
    assert parse_segments(text) == (
        Sentence(start_s=1, end_s=5, audio="a, [=].wav"),
        Sentence(start_s=5, end_s=6.5, audio="b.wav"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12-15:a.wav", "segments is no JSON"),
        ("[" * 100_000, "segments is no JSON"),
        ("[]", "no list of sentences"),
        ('{"start_s": 1, "end_s": 2, "audio": "a"}', "no list of sentences"),
        ('[{"start_s": 1, "end_s": 2}]', "segment 1 does not have exactly the words start_s, end_s, audio"),
        ('[{"start_s": 1, "end_s": 2, "audio": "a", "x": 1}]', "does not have exactly"),
        ("[3]", "does not have exactly"),
        ('[{"start_s": 2, "end_s": 2, "audio": "a"}]', "the end after the start"),
        ('[{"start_s": -1, "end_s": 2, "audio": "a"}]', "the end after the start"),
        ('[{"start_s": true, "end_s": 2, "audio": "a"}]', "the end after the start"),
        ('[{"start_s": "1", "end_s": 2, "audio": "a"}]', "the end after the start"),
        ('[{"start_s": 1, "end_s": NaN, "audio": "a"}]', "the end after the start"),
        ('[{"start_s": 1, "end_s": Infinity, "audio": "a"}]', "the end after the start"),
        ('[{"start_s": 1, "end_s": 2, "audio": " "}]', "names no audio"),
        ('[{"start_s": 1, "end_s": 3, "audio": "a"}, {"start_s": 2, "end_s": 4, "audio": "b"}]', "overlap"),
    ],
)
def test_what_is_no_list_of_sentences_is_told_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_segments(text)
