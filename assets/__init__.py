"""The graph: one stage of the loop per file, bound together by `study_graph`."""
