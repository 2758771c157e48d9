"""What dubbing one presenter into three languages costs in fetches and encodings, and what the videos hold.

    python tests/benchmarks/bench_dubbing.py [SECONDS]

Portrait, voices and subtitles lie on an S3 server of this machine; the manifest is built from them, and the real
pipeline renders it with the preset `tiny`. Prints the requests for each input, how often each network encoded
something, and the streams of each video as PyAV sees them.
"""

import os
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import av
import boto3

from pipelines import results, storage
from pipelines.build import build_manifest
from pipelines.run import Loaders, run
from stableavatar.avatar import Avatar
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import Preset, tiny
from tests.faults import Faults, proxy
from tests.s3 import serve_s3

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
VOICES = {"de.mp4": "video_de.mp4", "en.flac": "speech_en.flac", "es.flac": "speech_es_short.flac"}
SRT = "1\n00:00:00,100 --> 00:00:00,900\n{}\n"
INPUTS = "s3://studio"


def note(log: str, what: str) -> None:
    """A line for each encoding, from whatever process."""
    with open(log, "a") as file:
        file.write(f"{what}\n")


def counted(log: str, what: str, function: Any) -> Any:
    """The function, noted each time that it is called."""

    def call(*arguments: Any, **more: Any) -> Any:
        note(log, what)
        return function(*arguments, **more)

    return call


def load_encoder(log: str, preset: Preset, device: str) -> Any:
    encoder = TextEncoder.load(preset, device)
    return type("Counted", (), {"encode": staticmethod(counted(log, "prompts", encoder.encode))})()


def load_avatar(log: str, preset: Preset, device: str) -> Avatar:
    from stableavatar import avatar

    avatar.encode_portrait = counted(log, "portraits by the VAE", avatar.encode_portrait)
    avatar.embed_image = counted(log, "portraits by CLIP", avatar.embed_image)
    return Avatar.load(preset, device)


def upload() -> None:
    """The studio's bucket: one portrait with a prompt, three voices with subtitles, the German ones also in English."""
    boto3.client("s3").create_bucket(Bucket="studio")
    storage.publish(str(EXAMPLES / "portrait_nasa.jpg"), f"{INPUTS}/portraits/anna.jpg")
    storage.write(b"A woman talks to the camera.", f"{INPUTS}/portraits/anna.txt")
    for name, source in VOICES.items():
        storage.publish(str(EXAMPLES / source), f"{INPUTS}/voices/{name}")
        storage.write(SRT.format(name).encode(), f"{INPUTS}/voices/{name.split('.')[0]}.srt")
    storage.write(SRT.format("hello").encode(), f"{INPUTS}/voices/de.en.srt")


def streams(path: str) -> str:
    with av.open(path) as container:
        return ", ".join(f"{s.type} {s.codec_context.name} {s.metadata.get('language')}" for s in container.streams)


def main(seconds: float) -> None:
    with (
        serve_s3() as server,
        proxy(faults := Faults(server, share=0.0)) as address,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.environ |= {"AWS_ENDPOINT_URL": address, "STABLEAVATAR_SCRATCH": folder}
        upload()
        built = build_manifest(
            f"{INPUTS}/dubs.jsonl",
            portraits=[f"{INPUTS}/portraits"],
            voices=[f"{INPUTS}/voices"],
            video_name="{language}/{portrait}",
            common={"end_s": seconds},
        )
        print(storage.read(built.uri).decode())
        faults.requests.clear()
        log = f"{folder}/encodings"
        loaders = Loaders(avatar=partial(load_avatar, log), encoder=partial(load_encoder, log))
        report = run(built.uri, f"{INPUTS}/out", tiny(), loaders=loaders)
        print(f"\n{len(report.finished)} rows, {[row['error'] for row in report.finished if row['error']]} failed\n")
        asked = Counter(faults.requests)
        print("| input | GET | HEAD |\n|---|---|---|")
        for kind in ("portraits", "voices"):
            for name in storage.names_in(f"{INPUTS}/{kind}"):
                path = f"/studio/{kind}/{name}"
                print(f"| {kind}/{name} | {asked['GET', path]} | {asked['HEAD', path]} |")
        print("\n| encoded | times |\n|---|---|")
        for what, times in sorted(Counter(Path(log).read_text().splitlines()).items()):
            print(f"| {what} | {times} |")
        print("\n| video | frames | streams |\n|---|---|---|")
        for row in sorted(results.read_results(f"{INPUTS}/out").to_pylist(), key=lambda row: row["id"]):
            storage.fetch(row["video"], f"{folder}/video.mp4")
            name = row["video"].removeprefix(f"{INPUTS}/out/")
            print(f"| {name} | {row['num_frames']} | {streams(f'{folder}/video.mp4')} |")
        print(f"\nthe same again: {len(run(built.uri, f'{INPUTS}/out', tiny()).done)} rows are done already")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
