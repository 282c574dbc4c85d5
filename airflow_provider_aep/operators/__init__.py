"""The operators, one module for each step of an export's life; a module is loaded when its operator is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_aep.operators.check import AepCheckDataflowsOperator
    from airflow_provider_aep.operators.datasets import AepListDatasetsOperator
    from airflow_provider_aep.operators.export import AepExportDatasetsOperator
    from airflow_provider_aep.operators.lifecycle import (
        AepDeleteExportOperator,
        AepDisableDataflowOperator,
        AepEnableDataflowOperator,
    )
    from airflow_provider_aep.operators.run import AepRunDataflowOperator
    from airflow_provider_aep.operators.steps import (
        AepCreateBaseConnectionOperator,
        AepCreateDataflowOperator,
        AepCreateSourceConnectionOperator,
        AepCreateTargetConnectionOperator,
    )
    from airflow_provider_aep.operators.sync import AepSyncExportsOperator

__all__ = [
    "AepCheckDataflowsOperator",
    "AepCreateBaseConnectionOperator",
    "AepCreateDataflowOperator",
    "AepCreateSourceConnectionOperator",
    "AepCreateTargetConnectionOperator",
    "AepDeleteExportOperator",
    "AepDisableDataflowOperator",
    "AepEnableDataflowOperator",
    "AepExportDatasetsOperator",
    "AepListDatasetsOperator",
    "AepRunDataflowOperator",
    "AepSyncExportsOperator",
]

_MODULES = {
    "AepCheckDataflowsOperator": "check",
    "AepCreateBaseConnectionOperator": "steps",
    "AepCreateDataflowOperator": "steps",
    "AepCreateSourceConnectionOperator": "steps",
    "AepCreateTargetConnectionOperator": "steps",
    "AepDeleteExportOperator": "lifecycle",
    "AepDisableDataflowOperator": "lifecycle",
    "AepEnableDataflowOperator": "lifecycle",
    "AepExportDatasetsOperator": "export",
    "AepListDatasetsOperator": "datasets",
    "AepRunDataflowOperator": "run",
    "AepSyncExportsOperator": "sync",
}


def __getattr__(name: str) -> Any:
    """Load an operator's module on first use (PEP 562), so that parsing a DAG costs no more than what it uses."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
