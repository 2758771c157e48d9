import pytest

from manifests.redact import redacted

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "text",
    [
        f"s3://anna:{SECRET.replace('/', '')}@bucket/a.png cannot be read",
        f"https://user:p@ss{SECRET[:6]}@host:80/a.png",
        f"https://b.s3.amazonaws.com/a.png?X-Amz-Credential=AKIA/2026&X-Amz-Signature={SECRET}&x=1",
        f"https://b/a.png?versionId=3&AWSAccessKeyId=abc&Signature={SECRET}",
        f"https://account.blob.core.windows.net/c/a.png?sv=2026&sig={SECRET}",
        f"https://h/a.png?token={SECRET}",
        f"https://h/a.png?access_token={SECRET} and more",
        f"https://h/a.png?api_key={SECRET}#part",
        f"https://h/a.png?x=1;Password={SECRET}",
        f"https://storage.googleapis.com/b/a?X-Goog-Signature={SECRET}",
        f"https://proxy/?to=https%3A%2F%2Fb%2Fa.png%3FX-Amz-Signature%3D{SECRET}",
        f"aws_secret_access_key = {SECRET}",
        f'{{"SecretAccessKey": "x", "password": "{SECRET}"}}',
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};EndpointSuffix=x",
        f"Authorization: Bearer {SECRET}",
        f"the secret is whsec_{SECRET}",
        f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA/x/s3/aws4_request, SignedHeaders=host, Signature={SECRET}",
    ],
)
def test_credentials_are_hidden(text: str) -> None:
    hidden = redacted(text)
    assert "***" in hidden
    assert not any(part in hidden for part in (SECRET, SECRET[:6], "AKIA", "p@ss"))
    assert redacted(hidden) == hidden


@pytest.mark.parametrize("text", [f"https://h/a?token={SECRET}", f"password: {SECRET}"])
def test_what_is_put_behind_a_hidden_credential_stays(text: str) -> None:
    assert redacted(f"{redacted(text)}: it timed out") == f"{redacted(text)}: it timed out"


def test_what_the_environment_holds_is_hidden_wherever_it_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")  # too short to be told from a word
    assert redacted(f"it said {SECRET}, twice: {SECRET}; a test") == "it said ***, twice: ***; a test"
    assert redacted("wJalrXUtnFEMI%2FK7MDENG%2BbPxRfiCYEXAMPLEKEY") == "***"


def test_an_access_key_id_is_known_by_its_form() -> None:
    assert redacted("The key AKIAIOSFODNN7EXAMPLE does not exist") == "The key *** does not exist"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/faces/anna@home.png does not exist. Check the name.",
        "row 3 of /data/night.jsonl: a.png is not an image.",
        "https://host/a.png?versionId=abc&monkey=1&design=2&size=3",
        "http://host:8080/a/b.wav",
        "expected 3 tokens = 3 windows",
        "mail anna@example.com",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_long_text_takes_no_time_to_speak_of() -> None:
    for text in ("a" * 200_000, "?" * 200_000, "://" * 60_000, "-_" * 100_000, "?" + "key-" * 50_000):
        assert redacted(text) == text
