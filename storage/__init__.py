"""SQL, the truth: every prediction, claim, worker and model version is a row here and nowhere else for good."""
