"""Logins of destinations: Adobe's wire form, what a connection has to hold, and that no error shows a value."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import pytest

from airflow_provider_aep.api.credentials import (
    LOGINS,
    AdlsServicePrincipal,
    AzureConnectionString,
    GcsHmacKey,
    Login,
    S3AccessKey,
    S3AssumedRole,
    SftpPassword,
    SftpSshKey,
    account_in,
    auth,
    secrets,
)
from airflow_provider_aep.destinations import (
    DESTINATIONS,
    AdlsGen2,
    AmazonS3,
    AzureBlob,
    Destination,
    GoogleCloudStorage,
    Sftp,
)
from airflow_provider_aep.errors import InvalidArgument
from tests.destination_samples import SAMPLES, from_connection

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

S3, BLOB, ADLS, GCS, SFTP = (
    AmazonS3("lake", "p"),
    AzureBlob("lake", "p"),
    AdlsGen2("p"),
    GoogleCloudStorage("lake", "p"),
    Sftp("p"),
)
AZURE = AzureConnectionString(CONNECTION_STRING)
PRINCIPAL = AdlsServicePrincipal(URL, tenant="tenant-1", client_id="client-1", client_secret="adls-secret")
KEY = SftpSshKey("sftp.example.com", "loader", SSH_KEY)

with_login = pytest.mark.parametrize("name", [name for name, each in SAMPLES.items() if each.login_type])


def login_of(name: str) -> Login:
    login = SAMPLES[name].login
    assert login
    return login


# What Adobe gets


@with_login
def test_auth_is_as_adobe_documents_it(name: str) -> None:
    sample = SAMPLES[name]
    documented = sample.base_connection["auth"]

    assert type(login_of(name)).__name__ == sample.login_type
    assert auth(login_of(name)) == {"specName": documented["specName"], "params": sample.params}
    assert auth(login_of(name))["params"].keys() == documented["params"].keys()


def test_each_login_of_a_row_has_a_sample_and_its_own_type() -> None:
    for each in DESTINATIONS:
        rows = [sample.login_type for sample in SAMPLES.values() if isinstance(sample.destination, each)]
        assert tuple(filter(None, rows)) == DESTINATIONS[each].logins
    assert {name for row in DESTINATIONS.values() for name in row.logins} == set(LOGINS)


@pytest.mark.parametrize("login", [SftpPassword("h", "u", "p", port=2222), SftpSshKey("h", "u", SSH_KEY, port=2222)])
def test_a_port_is_sent_as_a_number(login: Login) -> None:
    assert auth(login)["params"]["port"] == 2222


@with_login
def test_a_login_shows_no_secret(name: str) -> None:
    masked = secrets(login_of(name))

    assert set(SAMPLES[name].secrets) <= set(masked)
    for secret in masked:
        assert secret not in repr(login_of(name))
        assert secret not in str(login_of(name))


@pytest.mark.parametrize(
    ("login", "account"),
    [
        (S3AccessKey(ACCESS_KEY, SECRET_KEY), ""),
        (AZURE, "lakestore"),
        (
            AzureConnectionString("AccountName=lake;EndpointSuffix=core.chinacloudapi.cn"),
            "lake.blob.core.chinacloudapi.cn",
        ),
        (AzureConnectionString("BlobEndpoint=https://lake.example/;AccountName=x"), "https://lake.example"),
        (PRINCIPAL, URL),
        (SftpPassword("h", "u", "p"), "u@h:22"),
        (SftpSshKey("h", "u", SSH_KEY, port=2222), "u@h:2222"),
    ],
)
def test_the_account_that_a_login_opens(login: Login, account: str) -> None:
    assert login.account == account


@with_login
def test_an_account_is_recognised_in_what_adobe_shows(name: str) -> None:
    """Or it is not shown; a port may be left out."""
    login = login_of(name)
    shown = account_in(auth(login)["params"])
    assert shown in ("", login.account) or f"{shown}:22" == login.account


def test_the_texts_to_mask() -> None:
    assert secrets(S3AccessKey(ACCESS_KEY, SECRET_KEY)) == (SECRET_KEY,)
    assert secrets(S3AssumedRole(ROLE)) == ()
    assert secrets(AZURE) == (CONNECTION_STRING, ACCOUNT_KEY)
    assert secrets(SftpSshKey("h", "u", SSH_KEY)) == (SSH_KEY, PEM, PEM.splitlines()[1])


# From an Airflow connection


def with_extra(fields: dict[str, Any]) -> dict[str, Any]:
    extra = {name.removeprefix("extra_"): value for name, value in fields.items() if name.startswith("extra_")}
    return {name: value for name, value in fields.items() if not name.startswith("extra_")} | {"extra": extra}


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
        (BLOB, {"conn_type": "wasb", "extra_connection_string": CONNECTION_STRING}, AZURE),
        (BLOB, {"password": CONNECTION_STRING}, AZURE),
        (BLOB, {"conn_type": "wasb", "login": "lakestore", "password": ACCOUNT_KEY}, AZURE),
        (
            ADLS,
            {
                "conn_type": "adls",
                "host": URL,
                "login": "client-1",
                "password": "adls-secret",
                "extra_tenant_id": "tenant-1",
            },
            PRINCIPAL,
        ),
        (
            ADLS,
            {"login": "client-1", "password": "adls-secret", "extra_tenant_id": "tenant-1", "extra_url": URL},
            PRINCIPAL,
        ),
        (GCS, {"login": "GOOG1EXAMPLE", "password": "hmac-secret"}, GcsHmacKey("GOOG1EXAMPLE", "hmac-secret")),
        (
            SFTP,
            {"conn_type": "sftp", "host": "sftp.example.com", "login": "loader", "password": "sftp secret"},
            SftpPassword("sftp.example.com", "loader", "sftp secret"),
        ),
        (
            SFTP,
            {"host": "h", "login": "u", "password": "p", "port": 2222, "extra_key_file": ""},
            SftpPassword("h", "u", "p", port=2222),
        ),
        (SFTP, {"host": "sftp.example.com", "login": "loader", "extra_private_key": PEM}, KEY),
        (SFTP, {"host": "sftp.example.com", "login": "loader", "extra_private_key": PEM.strip()}, KEY),
        (
            SFTP,
            {
                "host": "sftp.example.com",
                "login": "loader",
                "extra_private_key": base64.encodebytes(PEM.encode()).decode(),
            },
            KEY,
        ),
    ],
)
def test_a_connection_holds_a_login(destination: Destination, fields: dict[str, Any], expected: Login) -> None:
    assert from_connection(destination, **with_extra(fields)) == expected


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
        from_connection(destination, **with_extra(fields))

    message = str(refused.value)
    assert f"connection 'lake', field {field}" in message
    assert rule in message
    shown = [value for name, value in fields.items() if name != "conn_type" and len(str(value)) > 2]
    everything = message + repr(refused.value) + repr(pickle.dumps(refused.value))
    assert not [value for value in shown if str(value).strip() in everything]
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("name", [name for name, each in SAMPLES.items() if not each.login_type])
def test_a_destination_without_a_login_takes_no_connection(name: str) -> None:
    assert "auth" not in SAMPLES[name].base_connection

    with pytest.raises(InvalidArgument, match="destination_conn_id = 'lake': this destination takes no login"):
        from_connection(SAMPLES[name].destination, login="x")


def test_a_credential_made_by_hand_is_checked_and_hidden_too() -> None:
    with pytest.raises(
        InvalidArgument, match=r"S3AccessKey.secret_key = <hidden, 5 characters>: must be 40"
    ) as refused:
        S3AccessKey(ACCESS_KEY, "short")

    assert "short" not in repr(refused.value)
