import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stableavatar.drawn.espeak import Phoneme, Spoken, Voice, speak
from stableavatar.errors import BadInput
from stableavatar.units import SPEECH_RATE

VOICE = Voice(language="en-us", variant="m3", rate_wpm=140)
TEXT = "Mama, pop the big ball. Papa bought a copper pot."


@pytest.fixture(scope="module")
def spoken() -> Spoken:
    return speak(TEXT, VOICE)


def loudness(spoken: Spoken, start_s: float, end_s: float) -> float:
    part = spoken.samples[round(start_s * SPEECH_RATE) : round(end_s * SPEECH_RATE)]
    return float(np.sqrt((part**2).mean()))


def named(spoken: Spoken, name: str) -> list[Phoneme]:
    return [phoneme for phoneme in spoken.phonemes if phoneme.name.strip("ˈˌ") == name]


def test_phonemes_fill_the_sound_without_gaps(spoken: Spoken) -> None:
    assert spoken.samples.dtype == np.float32
    assert 0.2 < np.abs(spoken.samples).max() < 1
    assert spoken.phonemes[0].start_s == 0
    assert spoken.phonemes[-1].end_s == pytest.approx(spoken.duration_s, abs=1e-3)
    assert all(one.end_s == other.start_s for one, other in itertools.pairwise(spoken.phonemes))
    assert all(phoneme.end_s > phoneme.start_s for phoneme in spoken.phonemes)


def test_times_fit_the_sound_pauses_are_silent_and_vowels_loud(spoken: Spoken) -> None:
    pauses = [phoneme for phoneme in named(spoken, "") if phoneme.end_s - phoneme.start_s > 0.1]
    vowels = [phoneme for phoneme in spoken.phonemes if "ˈ" in phoneme.name]
    assert len(pauses) >= 2
    assert len(vowels) >= 6
    # The last sound before a pause fades out within 20 ms.
    assert max(loudness(spoken, pause.start_s + 0.02, pause.end_s) for pause in pauses) < 0.001
    assert min(loudness(spoken, vowel.start_s, vowel.end_s) for vowel in vowels) > 0.05


@pytest.mark.parametrize("variant", ["m3", "f2"])  # f2 has an echo
def test_a_stop_begins_with_its_closure(variant: str) -> None:
    spoken = speak(TEXT, Voice(language="en-us", variant=variant, rate_wpm=140))
    stops = named(spoken, "p")
    assert len(stops) >= 5
    for stop in stops:
        closure = loudness(spoken, stop.start_s + 0.005, stop.start_s + 0.025)
        assert closure < 0.8 * loudness(spoken, stop.start_s + 0.025, stop.end_s), stop


def test_the_same_again_whatever_was_said_before(spoken: Spoken) -> None:
    speak("Ein Bär brummt.", Voice(language="de", variant="f2", pitch=80))
    again = speak(TEXT, VOICE)
    np.testing.assert_array_equal(again.samples, spoken.samples)
    assert again.phonemes == spoken.phonemes


def test_threads_do_not_mix_what_they_say(spoken: Spoken) -> None:
    with ThreadPoolExecutor(4) as pool:
        others = pool.map(lambda n: speak("Uno.", Voice(language="es")) if n % 2 else speak(TEXT, VOICE), range(8))
    for other in list(others)[::2]:
        np.testing.assert_array_equal(other.samples, spoken.samples)


def test_voices_differ(spoken: Spoken) -> None:
    slow = speak(TEXT, Voice(language="en-us", variant="m3", rate_wpm=100))
    assert slow.duration_s > 1.2 * spoken.duration_s
    high = speak(TEXT, Voice(language="en-us", variant="f1", rate_wpm=140))
    assert len(high.samples) != len(spoken.samples) or np.abs(high.samples - spoken.samples).max() > 0.1


def test_a_change_of_language_is_no_sound() -> None:
    names = {phoneme.name for phoneme in speak("Mama, pop the big ball.", Voice(language="de")).phonemes}
    assert not any("(" in name for name in names)


def test_what_cannot_be_said() -> None:
    with pytest.raises(BadInput, match="no voice 'xx\\+f2'"):
        speak("Mama", Voice(language="xx", variant="f2"))
    with pytest.raises(BadInput, match="says nothing for ''"):
        speak("", VOICE)
    assert speak("Mama", VOICE).duration_s > 0.2  # an error leaves nothing behind
