"""The sound of a medium as a file of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import cache, scratch, storage
from stableavatar.audio.decode import extract_speech
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput


def extract_audio(uri: str, out_uri: str, span: Span = Span(), *, force: bool = False) -> None:
    """Write a sound as 16 kHz mono WAV, 16 bit, to `out_uri`: whole or not at all. Its zero is that of the medium.

    With `force` a file that is there is replaced. Raises BadInput, StorageError.
    """
    with one_file(uri, out_uri, force=force) as (path, wav):
        extract_speech(path, wav, span)


@contextmanager
def one_file(source: str, out: str, *, force: bool) -> Iterator[tuple[str, str]]:
    """(local path of `source`, path to write to): what is there at the end appears at `out`, whole or not at all.

    Both are paths or URIs. Raises BadInput for the source or if `out` is there and is not to be replaced, StorageError
    for a store, or if the scratch disk cannot be written to.
    """
    out = storage.absolute(out)
    if not force and storage.exists(out):
        raise BadInput(f"{out} is there already. Choose another name, or replace it with --force.")
    with cache.fetched(storage.absolute(source), keep=False) as path, scratch.folder() as folder:
        made = os.path.join(folder, "sound.wav")
        with scratch.writing(made):
            yield path, made
        storage.publish(made, out)
