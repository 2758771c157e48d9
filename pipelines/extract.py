"""The sound of a medium as a file of its own."""

import os

from pipelines import cache, scratch, storage
from stableavatar.audio.decode import extract_speech
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput, StorageError


def extract_audio(uri: str, out_uri: str, span: Span = Span(), *, force: bool = False) -> None:
    """Write a sound as 16 kHz mono WAV, 16 bit, to `out_uri`: whole or not at all. Its zero is that of the medium.

    With `force` a file that is there is replaced. Raises BadInput, StorageError.
    """
    if not force and storage.exists(out_uri):
        raise BadInput(f"{out_uri} is there already. Choose another name, or replace it with --force.")
    with cache.fetched(uri, keep=False) as path, scratch.folder() as folder:
        wav = os.path.join(folder, "speech.wav")
        try:
            extract_speech(path, wav, span)
        except OSError as error:
            raise StorageError(f"{wav} cannot be written ({error}). Make room on the scratch disk.") from error
        storage.publish(wav, out_uri)
