"""Export Adobe Experience Platform datasets with Apache Airflow. Imports nothing: Airflow reads it while it starts."""

__version__ = "0.1.0"


def get_provider_info() -> dict[str, object]:
    """What Airflow shows and loads of this provider. Since Airflow 3.2 the connection form needs no code."""
    integration = "Adobe Experience Platform"
    package = "airflow_provider_aep"
    # The form folds the extra fields away, so their headings must say what is required.
    required, optional = "Organisation (required) and sandbox", "Scopes and IMS address (optional)"
    return {
        "package-name": "airflow-provider-aep",
        "name": integration,
        "description": "Export Adobe Experience Platform datasets through the Flow Service API.",
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://experienceleague.adobe.com/docs/experience-platform/destinations/home.html",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": integration, "python-modules": [f"{package}.hooks"]}],
        "operators": [{"integration-name": integration, "python-modules": [f"{package}.operators"]}],
        "sensors": [{"integration-name": integration, "python-modules": [f"{package}.sensors"]}],
        "triggers": [{"integration-name": integration, "python-modules": [f"{package}.triggers"]}],
        "extra-links": [f"{package}.links.AepDataflowLink", f"{package}.links.AepDataflowRunLink"],
        "connection-types": [
            {
                "connection-type": "aep",
                "hook-class-name": f"{package}.hooks.AepHook",
                "hook-name": integration,
                "conn-fields": {
                    "org_id": {
                        # Not marked as required: the form would keep Save grey for a field in a folded section. It is
                        # checked when the connection is used or tested.
                        "label": "Organisation ID, required",
                        "description": "24 hexadecimal digits and @AdobeOrg (x-gw-ims-org-id)",
                        "schema": {
                            "type": ["string", "null"],
                            "pattern": "^[0-9A-Fa-f]{24}@AdobeOrg$",
                            "section": required,
                        },
                    },
                    "sandbox_name": {
                        "label": "Sandbox",
                        "description": "Name of the sandbox; tasks may name another",
                        "schema": {"type": ["string", "null"], "default": "prod", "section": required},
                    },
                    "scopes": {
                        "label": "Scopes",
                        "description": "Only if your credential needs others; empty: the Experience Platform API's",
                        "schema": {"type": ["string", "null"], "section": optional},
                    },
                    "ims_host": {
                        "label": "IMS address",
                        "description": "Only for another region or the emulator; empty: https://ims-na1.adobelogin.com",
                        "schema": {"type": ["string", "null"], "section": optional},
                    },
                },
                "ui-field-behaviour": {
                    # Where no port is stored, Airflow 3.3.2 tests with port 0 and refuses it as not the stored one
                    # (apache/airflow#73298). A provider cannot fill in a standard field, only ask for it.
                    "hidden-fields": ["schema"],
                    "relabeling": {
                        "login": "Client ID (x-api-key), required",
                        "password": "Client secret, required",
                        "host": "Gateway",
                        "port": "Port, required to test",
                    },
                    "placeholders": {"host": "https://platform.adobe.io", "port": "fill in 443"},
                },
            }
        ],
        "config": {
            "aep": {
                "description": "Limits of the requests to Adobe Experience Platform, and addresses of its UI.",
                "options": {
                    "connect_timeout": _seconds("Time to reach Adobe", "10"),
                    "read_timeout": _seconds("Time for Adobe to answer; its gateway cuts a call at about 60 s", "65"),
                    "max_retry_after": _seconds("The longest Retry-After that is honoured", "300"),
                    "visibility_seconds": _seconds(
                        "How late Adobe's lists may show an entity; a set-up that has lost a reply looks so long", "10"
                    ),
                    "poll_floor_seconds": _seconds(
                        "The shortest time between two polls of the triggerer, but for a few when runs usually end",
                        "60",
                    ),
                    "adhoc_accept": {
                        "description": "The Accept header of ad hoc runs, which Adobe's reference does not publish.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": None,
                        "default": "application/vnd.adobe.adhoc.dataset.activation+json; version=1",
                    },
                    "dataflow_url": _page("a dataflow", "{org_id}, {sandbox_name}, {dataflow_id}"),
                    "run_url": _page("a flow run", "{org_id}, {sandbox_name}, {dataflow_id}, {run_id}"),
                },
            }
        },
    }


def _seconds(description: str, default: str) -> dict[str, object]:
    return {
        "description": f"{description}, in seconds.",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": default,
    }


def _page(what: str, names: str) -> dict[str, object]:
    return {
        "description": f"Address of {what}'s page for the links of a task, with {names}; empty: Adobe's UI, "
        "or no link if the gateway is not Adobe's.",
        "version_added": "0.1.0",
        "type": "string",
        "example": None,
        "default": "",
    }
