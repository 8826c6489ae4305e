"""Reading metrics: tables, plots, the report. Estimators are elsewhere, in `core` and `stages`."""
