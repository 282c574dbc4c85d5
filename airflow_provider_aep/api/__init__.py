"""Adobe's API as plain values and generators; nothing here imports Airflow."""
