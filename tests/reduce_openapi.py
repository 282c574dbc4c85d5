"""Makes `samples/openapi_*.json` of Adobe's OpenAPI documents: what exports need of them, without its prose.

    python -m tests.reduce_openapi <folder with destinations.yaml and flow-service.yaml>

What is kept is Adobe's, unchanged: operations, parameters, bodies, replies, the schemas they refer to, and examples.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

SAMPLES = Path(__file__).parent / "samples"
SNAPSHOT = "16c60cd7a5617582fc21500f5ab3edf0e2ee308b"
VERBS = ("get", "post", "patch", "delete")
PROSE = {"description", "summary", "title", "x-summary", "tags", "operationId", "externalDocs"}

# The flow-service document describes sources; of it is taken what the destinations document lacks.
DOCUMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "destinations": {},  # all
    "flow-service": {
        "/runs/{RUN_ID}": ("get",),
        "/flows/{FLOW_ID}/action": ("post",),
        "/sourceConnections/{SOURCE_CONNECTION_ID}": ("patch",),
        "/targetConnections/{TARGET_CONNECTION_ID}": ("patch",),
    },
}
# Of the examples those of dataset exports; the others are about audiences or show the same once more.
EXAMPLES = {
    "Create_S3_Base_Connection",
    "Create_SFTP_With_Password_Base_Connection",
    "Create_Source_Connection_Data_Lake",
    "Create_S3_Target_Connection_Dataset",
    "Create_SFTP_Target_Connection",
    "Create_Batch_Destination_Flow_Dataset_V2",
    "Create_Base_Connection_Response",
    "Create_Source_Connection_Response",
    "Create_Flow_Response",
    "Patch_Flow_Response",
    "Patch_Connection_Remove_Auth_Params",
    "Patch_Connection_Add_S3_Auth_Params",
    "Patch_Connection_Replace_Auth_Params",
    "Patch_Dataset_Schedule_Params",
    "Patch_Source_Connection",
    "Amazon_S3_Connection_V2",
    "SFTP_Connection_V2",
    "SourceConnectionsResponseDataLake_V2",
    "Amazon_S3_Target_Connection_Dataset_V2",
    "Batch_Flow_Dataset_Schedule_V2",
    "Batch_Flow_Run_Success",
    "Batch_Flow_Run_Failure",
    "Destination_Dataset_Response",
}


def reduced(document: dict[str, Any], operations: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The operations of a document, all of them unless some are named, and the components that they refer to."""
    paths = {
        path: {verb: without_prose(given) for verb, given in item.items() if verb in operations.get(path, VERBS)}
        for path, item in document["paths"].items()
        if not operations or path in operations
    }
    components: dict[str, dict[str, Any]] = {}
    collect(paths, document, components)
    kept = {kind: dict(sorted(found.items())) for kind, found in sorted(components.items())}
    servers = without_prose(document["servers"])
    return {"openapi": document["openapi"], "servers": servers, "paths": paths, "components": kept}


def without_prose(node: Any, *, is_map: bool = False) -> Any:
    """A part of a document without prose; `is_map`: its keys are names that Adobe's API gives, such as properties."""
    if isinstance(node, list):
        return [without_prose(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if not is_map and key in PROSE:
            continue
        if not is_map and key in ("example", "enum", "default", "required", "value"):
            kept[key] = value  # data
        elif not is_map and key == "examples":
            known = {name: each for name, each in value.items() if is_kept(each)}
            kept.update({"examples": without_prose(known, is_map=True)} if known else {})
        else:
            kept[key] = without_prose(value, is_map=not is_map and key in ("properties", "content", "responses"))
    return kept


def is_kept(example: dict[str, Any]) -> bool:
    """One written in its place is short."""
    return "$ref" not in example or example["$ref"].rpartition("/")[2] in EXAMPLES


def collect(node: Any, document: dict[str, Any], components: dict[str, dict[str, Any]]) -> None:
    """Add the components that a part refers to, and those that these refer to."""
    if isinstance(node, list):
        for each in node:
            collect(each, document, components)
    elif isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            _, _, kind, name = reference.split("/")
            if name not in components.setdefault(kind, {}):
                components[kind][name] = without_prose(document["components"][kind][name])
                collect(components[kind][name], document, components)
        for each in node.values():
            collect(each, document, components)


def written(node: Any, depth: int = 0) -> str:
    """JSON with a line for each operation, each schema and each example."""
    if not isinstance(node, dict) or depth == 3:
        return json.dumps(node, ensure_ascii=False)
    members = (f"{' ' * (depth + 1)}{json.dumps(name)}: {written(each, depth + 1)}" for name, each in node.items())
    return "{\n" + ",\n".join(members) + "\n" + " " * depth + "}"


def main(folder: Path) -> None:
    for name, operations in DOCUMENTS.items():
        text = (folder / f"{name}.yaml").read_bytes()
        source = {
            "document": f"Adobe, {name} OpenAPI: AdobeDocs/experience-platform-apis, static/swagger-specs/{name}.yaml",
            "snapshot": SNAPSHOT,
            "sha256": hashlib.sha256(text).hexdigest(),
            "licence": "Apache License 2.0, Copyright 2020 Adobe; the licence's text is in this project's LICENSE",
            "reduced": "by tests/reduce_openapi.py: less prose, audiences' examples and what exports do not use",
        }
        sample = {"_source": source, **reduced(yaml.safe_load(text), operations)}
        path = SAMPLES / f"openapi_{name.replace('-', '_')}.json"
        path.write_text(written(sample) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
