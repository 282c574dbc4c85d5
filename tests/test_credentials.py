"""Logins of destinations: Adobe's wire form, what a connection has to hold, and that no error shows a value."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aep.api.credentials import (
    AdlsServicePrincipal,
    AzureConnectionString,
    GcsHmacKey,
    Login,
    S3AccessKey,
    S3AssumedRole,
    SftpPassword,
    SftpSshKey,
    auth,
    login_from_connection,
    secrets,
)
from airflow_provider_aep.destinations import (
    AdlsGen2,
    AmazonS3,
    AzureBlob,
    DataLandingZone,
    Destination,
    GoogleCloudStorage,
    Sftp,
    destination_type,
)
from airflow_provider_aep.errors import InvalidArgument

SAMPLES = Path(__file__).parent / "samples" / "requests"

ACCESS_KEY = "AKIA" + "A2B3C4D5E6F7G2H3"
SECRET_KEY = "s3cr3t/S3CR3T+" + "x" * 26
ROLE = "arn:aws:iam::123456789012:role/adobe-export"
ACCOUNT_KEY = base64.b64encode(bytes(range(64))).decode()
CONNECTION_STRING = (
    f"DefaultEndpointsProtocol=https;AccountName=lakestore;AccountKey={ACCOUNT_KEY};EndpointSuffix=core.windows.net"
)
URL = "abfss://exports@lake.dfs.core.windows.net"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nTUlJRXBBSUJBQUtDQVFFQQ==\n-----END RSA PRIVATE KEY-----\n"
SSH_KEY = base64.b64encode(PEM.encode()).decode()

S3, BLOB, ADLS, GCS, SFTP, DLZ = (
    AmazonS3("lake", "p"),
    AzureBlob("lake", "p"),
    AdlsGen2("p"),
    GoogleCloudStorage("lake", "p"),
    Sftp("p"),
    DataLandingZone("p"),
)

# Login, its sample, and which placeholder of the sample stands for which value.
SEVEN: list[tuple[Login, str, dict[str, str]]] = [
    (
        S3AccessKey(ACCESS_KEY, SECRET_KEY),
        "s3_access_key",
        {"<Add access key>": ACCESS_KEY, "<Add secret key>": SECRET_KEY},
    ),
    (S3AssumedRole(ROLE), "s3_assumed_role", {"<Add role ARN>": ROLE}),
    (
        AzureConnectionString(CONNECTION_STRING),
        "azure_connection_string",
        {"<Add Azure Blob connection string>": CONNECTION_STRING},
    ),
    (
        AdlsServicePrincipal(URL, tenant="tenant-1", client_id="client-1", client_secret="adls-secret"),
        "adls_service_principal",
        {
            "<Add url>": URL,
            "<Add tenant>": "tenant-1",
            "<Add servicePrincipalId>": "client-1",
            "<Add servicePrincipalKey>": "adls-secret",
        },
    ),
    (
        GcsHmacKey("GOOG1EXAMPLE", "hmac-secret"),
        "gcs_hmac_key",
        {"<Add accessKeyId>": "GOOG1EXAMPLE", "<Add secret Access Key>": "hmac-secret"},
    ),
    (
        SftpPassword("sftp.example.com", "loader", "sftp secret"),
        "sftp_password",
        {"<Add domain>": "sftp.example.com", "<Add username>": "loader", "<Add password>": "sftp secret"},
    ),
    (
        SftpSshKey("sftp.example.com", "loader", SSH_KEY),
        "sftp_ssh_key",
        {"<Add domain>": "sftp.example.com", "<Add username>": "loader", "<Add SSH key>": SSH_KEY},
    ),
]
IDS = [name for _, name, _ in SEVEN]


def from_connection(destination: Destination, **fields: Any) -> Login:
    extra = {name.removeprefix("extra_"): fields.pop(name) for name in list(fields) if name.startswith("extra_")}
    given = {"conn_type": "generic", "host": None, "login": None, "password": None, "port": None, **fields}
    return login_from_connection(destination_type(destination).logins, conn_id="lake", extra=extra, **given)


# What Adobe gets


@pytest.mark.parametrize(("credential", "name", "values"), SEVEN, ids=IDS)
def test_auth_equals_adobes_documented_body(credential: Login, name: str, values: dict[str, str]) -> None:
    documented = json.loads((SAMPLES / f"base_connection_{name}.json").read_text())["auth"]

    filled = {member: values[placeholder] for member, placeholder in documented["params"].items()}

    assert auth(credential) == {"specName": documented["specName"], "params": filled}


@pytest.mark.parametrize(
    "credential", [SftpPassword("h", "u", "p", port=2222), SftpSshKey("h", "u", SSH_KEY, port=2222)]
)
def test_a_port_is_sent_as_a_number(credential: Login) -> None:
    assert auth(credential)["params"]["port"] == 2222


@pytest.mark.parametrize(("credential", "name", "values"), SEVEN, ids=IDS)
def test_a_login_shows_no_secret(credential: Login, name: str, values: dict[str, str]) -> None:
    for secret in secrets(credential):
        assert secret not in repr(credential)
        assert secret not in f"{credential} {credential!s}"


def test_the_texts_to_mask() -> None:
    assert secrets(S3AccessKey(ACCESS_KEY, SECRET_KEY)) == (SECRET_KEY,)
    assert secrets(S3AssumedRole(ROLE)) == ()
    assert secrets(AzureConnectionString(CONNECTION_STRING)) == (CONNECTION_STRING, ACCOUNT_KEY)
    assert secrets(SftpSshKey("h", "u", SSH_KEY)) == (SSH_KEY, PEM, PEM.splitlines()[1])


# From an Airflow connection


@pytest.mark.parametrize(
    ("destination", "fields", "expected"),
    [
        (S3, {"login": ACCESS_KEY, "password": SECRET_KEY}, S3AccessKey(ACCESS_KEY, SECRET_KEY)),
        (S3, {"conn_type": "aws", "extra_role_arn": ROLE}, S3AssumedRole(ROLE)),
        (
            S3,
            {
                "conn_type": "aws",
                "extra_aws_access_key_id": ACCESS_KEY,
                "extra_aws_secret_access_key": SECRET_KEY,
                "extra_region_name": "eu-west-1",
            },
            S3AccessKey(ACCESS_KEY, SECRET_KEY),
        ),
        (BLOB, {"conn_type": "wasb", "extra_connection_string": CONNECTION_STRING}, SEVEN[2][0]),
        (BLOB, {"password": CONNECTION_STRING}, SEVEN[2][0]),
        (BLOB, {"conn_type": "wasb", "login": "lakestore", "password": ACCOUNT_KEY}, SEVEN[2][0]),
        (
            ADLS,
            {
                "conn_type": "adls",
                "host": URL,
                "login": "client-1",
                "password": "adls-secret",
                "extra_tenant_id": "tenant-1",
            },
            SEVEN[3][0],
        ),
        (
            ADLS,
            {"login": "client-1", "password": "adls-secret", "extra_tenant_id": "tenant-1", "extra_url": URL},
            SEVEN[3][0],
        ),
        (GCS, {"login": "GOOG1EXAMPLE", "password": "hmac-secret"}, SEVEN[4][0]),
        (
            SFTP,
            {"conn_type": "sftp", "host": "sftp.example.com", "login": "loader", "password": "sftp secret"},
            SEVEN[5][0],
        ),
        (
            SFTP,
            {"host": "h", "login": "u", "password": "p", "port": 2222, "extra_key_file": ""},
            SftpPassword("h", "u", "p", port=2222),
        ),
        (SFTP, {"host": "sftp.example.com", "login": "loader", "extra_private_key": PEM}, SEVEN[6][0]),
        (SFTP, {"host": "sftp.example.com", "login": "loader", "extra_private_key": PEM.strip()}, SEVEN[6][0]),
        (
            SFTP,
            {
                "host": "sftp.example.com",
                "login": "loader",
                "extra_private_key": base64.encodebytes(PEM.encode()).decode(),
            },
            SEVEN[6][0],
        ),
    ],
)
def test_a_connection_holds_a_login(destination: Destination, fields: dict[str, Any], expected: Login) -> None:
    assert from_connection(destination, **fields) == expected


@pytest.mark.parametrize(
    ("destination", "fields", "field", "rule"),
    [
        (S3, {"login": ACCESS_KEY}, "password = None", "is missing; S3AccessKey needs it as secret_key"),
        (S3, {}, "login = None", "is missing"),
        (S3, {"login": "AKIA0189", "password": SECRET_KEY}, "login", "20 characters out of A-Z and 2-7"),
        (S3, {"login": SECRET_KEY, "password": ACCESS_KEY}, "login", "20 characters"),
        (S3, {"login": ACCESS_KEY, "password": SECRET_KEY + "\n"}, "password", "40 characters out of"),
        (
            S3,
            {"login": ACCESS_KEY, "password": SECRET_KEY, "extra_role_arn": ROLE},
            "login",
            "contradicts field extra",
        ),
        (
            S3,
            {"login": ACCESS_KEY, "password": SECRET_KEY, "extra_aws_secret_access_key": "y" * 40},
            "extra.aws_secret_access_key",
            "contradicts field password",
        ),
        (
            S3,
            {"login": ACCESS_KEY, "password": SECRET_KEY, "extra_aws_session_token": "token-secret"},
            "extra.aws_session_token",
            "temporary AWS credentials",
        ),
        (S3, {"extra_role_arn": "arn:aws:iam::1:user/x"}, "extra.role_arn", "must be arn:aws:iam::"),
        (
            S3,
            {"conn_type": "wasb", "login": ACCESS_KEY, "password": SECRET_KEY},
            "conn_type = 'wasb'",
            "another storage",
        ),
        (BLOB, {}, "password = None", "is missing"),
        (BLOB, {"login": "lakestore"}, "password = None", "is missing"),
        (BLOB, {"extra_sas_token": "sv=2020&sig=sas-secret"}, "extra.sas_token", "no shared access signature"),
        (
            BLOB,
            {"password": "BlobEndpoint=https://x;SharedAccessSignature=sas-secret"},
            "password",
            "shared access signature",
        ),
        (ADLS, {"host": URL, "login": "c", "password": "adls-secret"}, "extra.tenant_id = None", "is missing"),
        (
            ADLS,
            {"host": "lake.dfs.core.windows.net", "login": "c", "password": "adls-secret", "extra_tenant_id": "t"},
            "host",
            "must be abfss://",
        ),
        (ADLS, {"host": URL, "extra_url": URL + "/other"}, "host", "contradicts field extra.url"),
        (GCS, {"login": "GOOG1EXAMPLE"}, "password = None", "is missing"),
        (GCS, {"conn_type": "aws", "login": "GOOG1EXAMPLE", "password": "hmac-secret"}, "conn_type", "another storage"),
        (SFTP, {"login": "u", "password": "sftp secret"}, "host = None", "is missing"),
        (SFTP, {"host": "sftp://h", "login": "u", "password": "sftp secret"}, "host", "without sftp:// and port"),
        (SFTP, {"host": "h", "login": "u", "password": "sftp secret", "port": 70000}, "port", "from 1 to 65535"),
        (
            SFTP,
            {"host": "h", "login": "u", "password": "sftp secret", "extra_private_key": PEM},
            "password",
            "contradicts field extra.private_key",
        ),
        (SFTP, {"host": "h", "login": "u", "extra_key_file": "/keys/id_rsa"}, "extra.key_file", "extra.private_key"),
        (
            SFTP,
            {"host": "h", "login": "u", "extra_private_key": PEM, "extra_private_key_passphrase": "pass-secret"},
            "extra.private_key_passphrase",
            "no key with a passphrase",
        ),
        (
            SFTP,
            {
                "host": "h",
                "login": "u",
                "extra_private_key": PEM.replace("KEY-----\nT", "KEY-----\nProc-Type: 4,ENCRYPTED\nT"),
            },
            "extra.private_key",
            "protected by a passphrase",
        ),
        (SFTP, {"host": "h", "login": "u", "extra_private_key": "ssh-rsa AAAA me"}, "extra.private_key", "Base64 form"),
        (
            SFTP,
            {"host": "h", "login": "u", "extra_private_key": base64.b64encode(b"ssh-rsa AAAA me").decode()},
            "extra.private_key",
            "public key",
        ),
        (SFTP, {"host": "h", "login": "u", "extra_private_key": "abc"}, "extra.private_key", "Base64 form"),
    ],
)
def test_a_wrong_connection_is_refused_without_showing_it(
    destination: Destination, fields: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        from_connection(destination, **fields)

    message = str(refused.value)
    assert f"connection 'lake', field {field}" in message
    assert rule in message
    shown = [value for name, value in fields.items() if name != "conn_type" and len(str(value)) > 2]
    everything = message + repr(refused.value) + repr(pickle.dumps(refused.value))
    assert not [value for value in shown if str(value).strip() in everything]
    assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_a_data_landing_zone_takes_no_login() -> None:
    assert destination_type(DLZ).logins == ()
    assert "auth" not in json.loads((SAMPLES / "base_connection_data_landing_zone.json").read_text())

    with pytest.raises(InvalidArgument, match="destination_conn_id = 'lake': this destination takes no login"):
        from_connection(DLZ, login="x")


def test_a_credential_made_by_hand_is_checked_and_hidden_too() -> None:
    with pytest.raises(
        InvalidArgument, match=r"S3AccessKey.secret_key = <hidden, 5 characters>: must be 40"
    ) as refused:
        S3AccessKey(ACCESS_KEY, "short")

    assert "short" not in repr(refused.value)
