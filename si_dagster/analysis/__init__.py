"""Reading metrics: tables, plots and the report. It estimates nothing; estimators are in `core` and `stages`."""
