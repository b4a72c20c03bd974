import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.redaction import redacted

# What a secret may be made of where it stands in a URI: AWS secrets hold / and +, and people write them unescaped.
SECRETS = st.text(string.ascii_letters + string.digits + "/+=._~%-", min_size=8, max_size=60).map("Zq7".__add__)
USERS = SECRETS.filter(lambda text: "/" not in text)
QUERY_NAMES = [
    *("key", "api_key", "apikey", "secret", "token", "password", "Signature", "sig", "X-Amz-Signature"),
    *("X-Amz-Security-Token", "X-Amz-Credential", "AWSAccessKeyId", "aws_secret_access_key", "access_token"),
]


@given(USERS, SECRETS, st.sampled_from(["s3", "https", "postgresql+psycopg2", "mysql"]))
@example("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfi@CYEXAMPLEKEY", "s3")
def test_the_user_part_of_a_uri_is_hidden_and_the_rest_is_shown(user, password, scheme):
    shown = redacted(f"cannot read '{scheme}://{user}:{password}@bucket/table.csv': HTTP 403")
    assert shown == f"cannot read '{scheme}://***@bucket/table.csv': HTTP 403"


@given(USERS)
def test_a_user_without_a_password_is_hidden_too(user):
    assert redacted(f"s3://{user}@bucket/a@b is not there") == "s3://***@bucket/a@b is not there"


@given(st.sampled_from(QUERY_NAMES), SECRETS)
def test_values_of_a_query_with_a_secret_name_are_hidden(name, secret):
    assert redacted(f"GET https://store/x?part=1&{name}={secret}&page=2: 403") == (
        f"GET https://store/x?part=1&{name}=***&page=2: 403"
    )


@given(st.sampled_from(["PRECEPTOR_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"]), SECRETS)
def test_variables_json_and_headers_are_hidden(name, secret):
    for text in (
        f"{name}={secret}",
        f"{{'{name}': '{secret} and more'}}",
        f'{{"{name}": "{secret}"}}',
        f"Authorization: Bearer {secret}",
        f"headers={{'Authorization': 'Basic {secret}'}}",
        f"sent Bearer {secret} to it",
    ):
        assert secret not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"password": "Zq7\\"Zq7"}',
        '{"body": "{\\"token\\":\\"Zq7 Zq7\\",\\"n\\":1}"}',
        "aws_secret_access_key = Zq7",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIZq7\nZq7==\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIZq7 and no end",
        "403 for hf_Zq7aaaaaaaaaaaaaaaaaaaaaaaaaa",
    ],
)
def test_secrets_with_quotes_in_them_in_json_within_json_in_ini_files_and_private_keys_are_hidden(text):
    assert "Zq7" not in redacted(text)
    assert "***" in redacted(text)


def test_an_aws_key_id_is_hidden_wherever_it_stands():
    assert redacted("user AKIAIOSFODNN7EXAMPLE is not authorized") == "user AKIA*** is not authorized"


@pytest.mark.parametrize(
    "message",
    [
        "--set fit.tokens_per_pack=many: not an int. Write fit.tokens_per_pack=4096",
        "teach: 600/600 questions, 81.3/s, tokens per s 5657, right 0.89",
        "KeyError: 'image'",
        "http://127.0.0.1:8000/v1 answers as pocket-base, pocket-base:answer_only-00b97d79bc",
        "sqlite:////data/runs/mlflow.db: database is locked",
        "max_tokens=2048, monkey=1, keys=3",
        "export PRECEPTOR_API_KEY and run again; Bearer token missing",
        "mail me@example.org about git+ssh and a:b@c",
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(message):
    assert redacted(message) == message


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["://", "@", ":", "key=", "'", '"', "/", "a", " ", "Bearer "])).map("".join)
)
def test_redacting_twice_is_redacting_once_and_takes_any_text(text):
    once = redacted(text)
    assert redacted(once) == once


PIECES = ["a://", "key=", "a@", "://:", "Bearer ", "'key': '", "authorization=", "AKIA", "access"]
PIECES += ["key='\\x", 'key=\\"', "password = ", "-----BEGIN PRIVATE KEY-----"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_hostile_text_takes_a_moment(piece):
    started = time.process_time()
    redacted(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started < 2
